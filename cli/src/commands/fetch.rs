//! `fetch`: a job's avatars, contact sheets and embeddings, and previews if asked for, as files. Run again, it fetches only what is not there yet.

use super::Context;
use crate::client::{Client, download};
use crate::exit::{Exit, Failure};
use crate::files;
use crate::view::{AvatarView, SubjectProgressView};
use likeness_proto::v1;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The files of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// The subject.
    pub subject: String,
    /// Its avatars, in order.
    pub avatars: Vec<PathBuf>,
    /// Its previews, by step, if they were asked for.
    pub previews: Vec<PathBuf>,
    /// Its contact sheet, once made.
    pub contact_sheet: Option<PathBuf>,
    /// Its embedding, once learned.
    pub embedding: Option<PathBuf>,
}

pub(super) async fn command(context: &Context, id: &str, out: &Path, previews: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let job = client.job(id).await?;
    let mut fetched = Vec::new();
    for subject in &job.subjects {
        let dir = out.join(folder_of(subject)?);
        let mut files = fetch_subject(&client, subject, &dir).await?;
        if previews {
            files.previews = fetch_previews(&client, subject, &dir).await?;
        }
        fetched.push(files);
    }
    let is_empty = |files: &Fetched| files.avatars.is_empty() && files.previews.is_empty() && files.embedding.is_none();
    if fetched.iter().all(is_empty) {
        context.console.say(format!("job {id} has nothing to fetch yet"));
    }
    context.format.print(&fetched, |fetched| lines(fetched))
}

/// Downloads what there is of one subject: `avatars/NNN.png`, `avatars.json` that says what each shows,
/// `contact-sheet.png` and `embedding.safetensors`.
///
/// # Errors
/// As [`download`].
pub async fn fetch_subject(client: &Client, subject: &v1::SubjectProgress, dir: &Path) -> Result<Fetched, Failure> {
    let mut avatars = Vec::new();
    for avatar in &subject.avatars {
        let path = dir.join("avatars").join(format!("{:03}.png", avatar.index + 1));
        if let Some(object) = &avatar.object {
            download(client, object, &path).await?;
            avatars.push(path);
        }
    }
    if !avatars.is_empty() {
        write_manifest(subject, &dir.join("avatars.json"))?;
    }
    let embedding = subject.embedding.as_ref().and_then(|embedding| embedding.object.as_ref());
    Ok(Fetched {
        subject: subject.subject.clone(),
        avatars,
        previews: Vec::new(),
        contact_sheet: optional(client, subject.contact_sheet.as_ref(), dir.join("contact-sheet.png")).await?,
        embedding: optional(client, embedding, dir.join("embedding.safetensors")).await?,
    })
}

/// Downloads the previews there are of one subject: `previews/step-NNNNNN.png`.
async fn fetch_previews(client: &Client, subject: &v1::SubjectProgress, dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut previews = Vec::new();
    for v1::Preview { step, object } in &subject.previews {
        let path = dir.join("previews").join(format!("step-{step:06}.png"));
        previews.extend(optional(client, object.as_ref(), path).await?);
    }
    Ok(previews)
}

async fn optional(client: &Client, object: Option<&v1::ObjectRef>, path: PathBuf) -> Result<Option<PathBuf>, Failure> {
    let Some(object) = object else { return Ok(None) };
    download(client, object, &path).await?;
    Ok(Some(path))
}

fn write_manifest(subject: &v1::SubjectProgress, path: &Path) -> Result<(), Failure> {
    let avatars: Vec<AvatarView> = SubjectProgressView::from(subject).avatars;
    let text = serde_json::to_string_pretty(&avatars).map_err(Failure::unexpected)?;
    files::write(path, text.as_bytes())
}

/// The subject's name as a folder; the server is not trusted to send one that stays inside.
fn folder_of(subject: &v1::SubjectProgress) -> Result<&str, Failure> {
    let name: Result<likeness_proto::SubjectName, _> = subject.subject.parse();
    name.map(|_| subject.subject.as_str()).map_err(|error| Failure::new(Exit::Output, error.to_string()))
}

fn lines(fetched: &[Fetched]) -> String {
    let paths = fetched.iter().flat_map(|files| {
        files.avatars.iter().chain(&files.previews).chain(&files.contact_sheet).chain(&files.embedding)
    });
    paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subjects_name_never_leads_out_of_the_folder() {
        let named = |name: &str| v1::SubjectProgress { subject: name.to_owned(), ..Default::default() };
        assert_eq!(folder_of(&named("ada-1")).unwrap(), "ada-1");
        for name in ["../etc", "/etc", "..", ""] {
            assert_eq!(folder_of(&named(name)).unwrap_err().exit, Exit::Output, "{name}");
        }
    }
}
