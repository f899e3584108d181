//! `submit`: sends photos, then asks for the job. All that can be refused here is refused before anything is sent.

use super::{Context, jobs};
use crate::args::{PhotosArgs, SubmitArgs};
use crate::client::{Client, Upload, verdict};
use crate::exit::{Exit, Failure};
use crate::output::Format;
use crate::view::{JobView, WarningView};
use crate::{photos, prompts_file};
use likeness_proto::{Capacity, ErrorCode, ModelFacts, RenderSpec, Submission, TrainSpec, v1};
use serde::Serialize;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Sizes depend on the server's model; everything else in a spec can be checked without it.
const ANY_MODEL: ModelFacts = ModelFacts { native_size: 512, factor: 1 };

/// What `submit --json` prints.
#[derive(Serialize)]
struct SubmittedView {
    #[serde(flatten)]
    job: JobView,
    upload_warnings: Vec<WarningView>,
    not_uploaded: Vec<NotUploaded>,
}

/// A subject of a dataset that is not part of the job.
#[derive(Serialize)]
struct NotUploaded {
    subject: String,
    exit_code: u8,
    message: String,
}

/// What became of the uploads.
#[derive(Default)]
struct Uploaded {
    subjects: Vec<String>,
    warnings: Vec<WarningView>,
    failed: Vec<NotUploaded>,
}

pub(super) async fn command(context: &Context, args: &SubmitArgs) -> Result<(), Failure> {
    let mut request = request(args)?;
    let client = context.client()?;
    let uploaded = match folders(&args.photos)? {
        Some(folders) => upload_all(context, &client, &folders, &consent(&args.photos)?).await?,
        None => Uploaded { subjects: args.photos.embedding.clone(), ..Uploaded::default() },
    };
    request.subjects = job_subjects(&uploaded.subjects, &args.photos);
    let job = client.submit(&request).await?;
    for warning in job.subjects.iter().flat_map(|subject| &subject.warnings) {
        context.console.say(format!("{}: warning: {}", warning.subject, warning.message));
    }
    announce(context, args, &job, uploaded).await
}

/// Prints the job, and follows it if that is asked for.
async fn announce(context: &Context, args: &SubmitArgs, job: &v1::Job, uploaded: Uploaded) -> Result<(), Failure> {
    let Uploaded { warnings, failed, .. } = uploaded;
    let partly = failed.len();
    if context.format == Format::Text {
        context.format.print(&job.id, |id| id.clone())?;
    }
    let mut last = job.clone();
    if args.wait {
        last = jobs::follow(context, &context.client()?, &job.id, Format::Text).await?;
    } else {
        context.console.say(format!("follow it with `likeness watch {}`", job.id));
    }
    if context.format == Format::Json {
        let view = SubmittedView { job: JobView::from(&last), upload_warnings: warnings, not_uploaded: failed };
        context.format.print(&view, |_| String::new())?;
    }
    verdict(&last)?;
    if partly > 0 {
        return Err(Failure::new(Exit::JobPartlyFailed, format!("{partly} subjects of the dataset were not accepted")));
    }
    Ok(())
}

/// The request but for its subjects, checked as the server will check it.
fn request(args: &SubmitArgs) -> Result<v1::SubmitJobRequest, Failure> {
    let trains = args.photos.embedding.is_empty();
    if !trains && args.train.any() {
        return Err(Failure::new(
            Exit::Usage,
            "--embedding draws a finished subject; nothing is learned, so give no learning flags",
        ));
    }
    let render = prompts_file::read(&args.prompts)?;
    RenderSpec::resolve(render.clone(), &ANY_MODEL)
        .map_err(|refusal| Failure::from(refusal).about(args.prompts.display()))?;
    let train = trains.then(|| args.train.spec());
    if let Some(spec) = &train {
        TrainSpec::resolve(*spec, &ANY_MODEL)?;
    }
    let request = v1::SubmitJobRequest {
        idempotency_key: args.idempotency_key.clone().unwrap_or_else(|| Uuid::now_v7().to_string()),
        subjects: job_subjects(&named(&args.photos), &args.photos),
        train,
        render: Some(render),
        base_model: args.base_model.clone(),
        priority: args.priority,
    };
    Submission::try_from(request.clone())?;
    Ok(request)
}

/// The subjects named on the command line; of a dataset, a stand-in for those in it.
fn named(args: &PhotosArgs) -> Vec<String> {
    match (&args.subject, args.embedding.is_empty()) {
        (Some(subject), _) => vec![subject.clone()],
        (None, false) => args.embedding.clone(),
        (None, true) => vec!["dataset".to_owned()],
    }
}

fn job_subjects(names: &[String], args: &PhotosArgs) -> Vec<v1::JobSubject> {
    let init = args.init.clone().unwrap_or_default();
    names.iter().map(|name| v1::JobSubject { name: name.clone(), init: init.clone() }).collect()
}

/// Subjects and the folders of their photos; none: nothing is to be uploaded.
fn folders(args: &PhotosArgs) -> Result<Option<Vec<(String, PathBuf)>>, Failure> {
    match (&args.photos, &args.dataset, &args.subject) {
        (Some(folder), _, Some(subject)) => Ok(Some(vec![(subject.clone(), folder.clone())])),
        (_, Some(dataset), _) => photos::subjects_in(dataset).map(Some),
        _ => Ok(None),
    }
}

fn consent(args: &PhotosArgs) -> Result<v1::Consent, Failure> {
    let (Some(who), Some(capacity), Some(statement)) = (&args.attest_by, args.attest_as, &args.statement) else {
        return Err(Failure::refused(
            ErrorCode::ConsentMissing,
            "nobody attests that the photos may be used; give --attest-by WHO, --attest-as self|guardian|licensee and --statement \"…\"",
        ));
    };
    Ok(v1::Consent { attested_by: who.clone(), capacity: Capacity::encode(capacity), statement: statement.clone() })
}

/// Uploads every subject. In a dataset a bad one fails alone; alone it is the failure.
async fn upload_all(
    context: &Context,
    client: &Client,
    folders: &[(String, PathBuf)],
    consent: &v1::Consent,
) -> Result<Uploaded, Failure> {
    let mut uploaded = Uploaded::default();
    let mut first_failure = None;
    for (subject, folder) in folders {
        match upload(client, subject, folder, consent).await {
            Ok(answer) => uploaded.accept(context, subject, &answer),
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
            Err(failure) => {
                let failure = failure.about(format!("subject {subject}"));
                if folders.len() > 1 {
                    context.console.say(format!("error: {failure}"));
                }
                uploaded.failed.push(NotUploaded {
                    subject: subject.clone(),
                    exit_code: failure.exit.code(),
                    message: failure.message.clone(),
                });
                first_failure.get_or_insert(failure);
            }
        }
    }
    match first_failure {
        Some(failure) if uploaded.subjects.is_empty() => Err(failure),
        _ => Ok(uploaded),
    }
}

async fn upload(
    client: &Client,
    subject: &str,
    folder: &Path,
    consent: &v1::Consent,
) -> Result<v1::PutSubjectResponse, Failure> {
    let upload = Upload::new(subject, consent.clone(), photos::in_folder(folder)?)?;
    client.put_subject(&upload).await
}

impl Uploaded {
    fn accept(&mut self, context: &Context, subject: &str, answer: &v1::PutSubjectResponse) {
        let photos = answer.subject.as_ref().map_or(0, |stored| stored.photos.len());
        context.console.say(format!("{subject}: {photos} {} stored", if photos == 1 { "photo" } else { "photos" }));
        for warning in &answer.warnings {
            context.console.say(format!("{subject}: warning: {}", warning.message));
        }
        self.warnings.extend(answer.warnings.iter().map(WarningView::from));
        self.subjects.push(subject.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(extra: &str, prompts: &str) -> (SubmitArgs, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), prompts).unwrap();
        let line = format!("likeness submit {extra} --prompts {}", file.path().display());
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Submit(args) => (*args, file),
            other => panic!("{other:?}"),
        }
    }

    const PHOTOS: &str = "photos --subject ada --init person";
    const PROMPTS: &str = "prompts = ['a photo of {subject}']";

    fn refusal(extra: &str, prompts: &str) -> Failure {
        request(&args(extra, prompts).0).unwrap_err()
    }

    #[test]
    fn a_good_request_is_complete_and_names_itself() {
        let request = request(&args(PHOTOS, PROMPTS).0).unwrap();
        assert!(request.train.is_some() && request.render.is_some());
        assert!(!request.idempotency_key.is_empty());
        assert_eq!((request.subjects[0].name.as_str(), request.subjects[0].init.as_str()), ("ada", "person"));
    }

    #[test]
    fn a_given_key_is_kept() {
        let request = request(&args(&format!("{PHOTOS} --idempotency-key mine"), PROMPTS).0).unwrap();
        assert_eq!(request.idempotency_key, "mine");
    }

    #[test]
    fn what_the_server_would_refuse_is_refused_before_anything_is_sent() {
        assert_eq!(refusal(PHOTOS, "prompts = ['a cat']").exit, Exit::Refused(ErrorCode::PromptWithoutSubject));
        assert_eq!(refusal(&format!("{PHOTOS} --vectors 0"), PROMPTS).exit, Exit::Refused(ErrorCode::InvalidArgument));
        let steps = format!("{PROMPTS}\nsteps = 0");
        assert_eq!(refusal(PHOTOS, &steps).exit, Exit::Refused(ErrorCode::InvalidArgument));
        let name = refusal("photos --subject Ada! --init person", PROMPTS);
        assert_eq!(name.exit, Exit::Refused(ErrorCode::InvalidArgument));
    }

    #[test]
    fn drawing_a_finished_subject_takes_no_learning_flags() {
        let request = request(&args("--embedding ada --embedding zoe", PROMPTS).0).unwrap();
        assert!(request.train.is_none());
        assert_eq!(request.subjects.len(), 2);
        assert_eq!(refusal("--embedding ada --steps 10", PROMPTS).exit, Exit::Usage);
    }

    #[test]
    fn photos_without_an_attestation_are_not_sent() {
        let failure = consent(&args(PHOTOS, PROMPTS).0.photos).unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::ConsentMissing));
        assert!(failure.message.contains("--attest-by"), "{failure}");
    }
}
