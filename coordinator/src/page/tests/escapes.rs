//! Names and texts that want to be more than that.

use likeness_proto::Sha256;
use likeness_proto::v1::{ErrorDetail, Job, JobState, ObjectRef, SubjectState};

use super::*;
use crate::page::views::{self, Frame, Section, Seen};
use crate::store::{Hand, Roster};

/// Ends tags and attributes, turns directions, breaks lines.
const HOSTILE: [&str; 7] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></bdi><svg onload=alert(1)>",
    "\u{202e}gnp.ada\u{2066}",
    "a\r\nset-cookie: x=y\n\t\u{0}",
    "javascript:alert(1)//{{7*7}}&lt;b&gt;",
];

/// Nothing of what is hostile stands in the page as markup.
#[track_caller]
fn harmless(page: &str) {
    let lower = page.to_lowercase();
    for markup in ["<script>", "<img src=x", "<svg onload", " onerror=alert(1)>", "href=\"javascript:"] {
        assert!(!lower.contains(markup), "{markup} in {page}");
    }
    // Of every tag, in its place: an attribute that begins with `on` would run.
    let mut rest = page;
    while let Some((_, tag)) = rest.split_once('<') {
        let (mut quoted, mut outside) = (false, String::new());
        for letter in tag.chars() {
            match letter {
                '"' => quoted = !quoted,
                '>' if !quoted => break,
                _ if !quoted => outside.push(letter),
                _ => {}
            }
        }
        assert!(!outside.contains(" on"), "<{outside}");
        rest = tag;
    }
    assert_eq!(page.matches("<script").count(), 1, "the page's own");
}

fn object() -> Option<ObjectRef> {
    let key = "v1/default/ada/render/x/1/00000.png".into();
    Some(ObjectRef { key, sha256: Sha256::of(b"").as_bytes().to_vec(), size: 0 })
}

/// A job in which every text is hostile.
fn job(text: &str) -> Job {
    let warning = v1::Warning { code: 1, message: text.into(), subject: text.into() };
    let avatar = v1::Avatar { object: object(), prompt: format!("{text} {{subject}}"), seed: 1, index: 0 };
    let subject = v1::SubjectProgress {
        subject: text.into(),
        state: SubjectState::Failed.into(),
        token: text.into(),
        avatars: vec![avatar],
        previews: vec![v1::Preview { step: 50, object: object() }],
        contact_sheet: object(),
        error: Some(ErrorDetail { code: 1, message: text.into() }),
        warnings: vec![warning],
        init: text.into(),
        training: Some(v1::TrainProgress::default()),
        ..Default::default()
    };
    let prompt = v1::Prompt { text: text.into(), seeds: vec![1] };
    Job {
        id: text.into(),
        state: JobState::Running.into(),
        subjects: vec![subject],
        render: Some(v1::RenderSpec { prompts: vec![prompt], negative_prompt: text.into(), ..Default::default() }),
        train: Some(v1::TrainSpec { previews: Some(7), ..Default::default() }),
        base_model: text.into(),
        ..Default::default()
    }
}

fn frame(title: &str) -> Frame<'_> {
    Frame { title, section: Section::Jobs, access: None, events: Some(format!("/jobs/{title}/events")) }
}

#[test]
fn hostile_texts_stay_texts_on_every_page() {
    for text in HOSTILE {
        let job = job(text);
        let photo = v1::Photo { file_name: text.into(), object: object(), width: 1, height: 1, caption: text.into() };
        let losses = v1::LossCurve { first_step: 1, losses: vec![0.5, 0.4], evaluations: vec![] };
        let seen = Seen { progress: job.subjects[0].clone(), photos: vec![photo.clone()], losses };
        let consent = v1::Consent { attested_by: text.into(), capacity: 1, statement: text.into() };
        let embedding = v1::Embedding { job_id: text.into(), ..Default::default() };
        let (consent, embedding) = (Some(consent), Some(embedding));
        let subject = v1::Subject { name: text.into(), photos: vec![photo], consent, embedding, ..Default::default() };
        let hand = Hand {
            name: text.into(),
            incarnation: likeness_proto::Incarnation::new(),
            kinds: vec![],
            models: vec![text.into()],
            software: text.into(),
        };
        let pages = [
            views::jobs(frame(text), std::slice::from_ref(&job)),
            views::job(frame(text), &job, &[]),
            views::job(frame(text), &job, std::slice::from_ref(&seen)),
            views::course(frame(text), &job, &seen),
            views::subjects(frame(text), std::slice::from_ref(&subject)),
            views::subject(frame(text), &subject),
            views::fleet(frame(text), &Roster { workers: vec![hand], held: vec![] }),
            views::sign_in(Some(text)),
            views::oops(text, text),
        ];
        for page in pages {
            harmless(&page.into_string());
        }
    }
}

#[test]
fn a_name_that_turns_the_direction_turns_nothing_but_itself() {
    let page = views::jobs(frame("Jobs"), &[job(HOSTILE[4])]).into_string();
    assert!(page.contains(&format!("<bdi>{}</bdi>", HOSTILE[4])), "{page}");
}

#[tokio::test]
async fn what_people_upload_is_shown_as_they_wrote_it() {
    let site = Site::new().await;
    site.served.put("ada", &[("\"><img src=x onerror=alert(1)>.png", png(64, 48))]).await.unwrap();
    let page = site.owner().await.get("/subjects/ada").await;
    harmless(&page.body);
    assert!(
        page.body.contains("alt=\"Photo of ada, &quot;&gt;&lt;img src=x onerror=alert(1)&gt;.png\""),
        "{}",
        page.body
    );
}
