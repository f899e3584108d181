//! A job as it is asked for.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::{
    ErrorCode, IdError, ModelDigest, ModelFacts, Refusal, RenderSpec, SubjectName, TrainSpec,
    check::{count, present, text, within},
    v1,
};

const MAX_SUBJECTS: usize = 1000;
const MAX_INIT: usize = 200;
const MAX_PRIORITY: i32 = 100;

/// A request for a job, checked but for its specs: those need to know the base model that is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Tells a repeated request from a second one.
    pub idempotency_key: IdempotencyKey,
    /// 1 to 1,000, no two of a name.
    pub subjects: Vec<JobSubject>,
    /// The base model asked for; `None`: the one that is there.
    pub base_model: Option<ModelDigest>,
    /// Before the tenant's other jobs where it is higher, −100 to 100.
    pub priority: i32,
    /// What spans about the job are children of, as W3C's `traceparent`. Of the call, not of its message.
    pub traceparent: Option<String>,
    train: Option<v1::TrainSpec>,
    render: v1::RenderSpec,
}

/// The specs of a job, for a known base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Specs {
    /// `None`: the subjects' finished embeddings are used.
    pub train: Option<TrainSpec>,
    /// What to draw.
    pub render: RenderSpec,
}

impl Submission {
    /// Whether embeddings are learned.
    pub fn trains(&self) -> bool {
        self.train.is_some()
    }

    /// Resolves the specs for the base model that was chosen.
    ///
    /// # Errors
    /// Names the first field that is not accepted.
    pub fn resolve(&self, model: &ModelFacts) -> Result<Specs, Refusal> {
        Ok(Specs {
            train: self.train.map(|wire| TrainSpec::resolve(wire, model)).transpose()?,
            render: RenderSpec::resolve(self.render.clone(), model)?,
        })
    }
}

impl TryFrom<v1::SubmitJobRequest> for Submission {
    type Error = Refusal;

    fn try_from(wire: v1::SubmitJobRequest) -> Result<Self, Refusal> {
        let trains = wire.train.is_some();
        let subjects = count("subjects", wire.subjects, 1..=MAX_SUBJECTS)?;
        let subjects = subjects.into_iter().map(|wire| subject(wire, trains)).collect::<Result<Vec<_>, _>>()?;
        distinct(&subjects)?;
        Ok(Self {
            idempotency_key: wire.idempotency_key.parse()?,
            subjects,
            base_model: (!wire.base_model.is_empty()).then(|| wire.base_model.parse()).transpose()?,
            priority: within("priority", wire.priority, -MAX_PRIORITY..=MAX_PRIORITY)?,
            traceparent: None,
            train: wire.train,
            render: present("render", wire.render)?,
        })
    }
}

/// A subject of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSubject {
    /// The subject's name.
    pub name: SubjectName,
    /// What it is before anything is learned; not blank when training.
    pub init: String,
}

fn subject(wire: v1::JobSubject, trains: bool) -> Result<JobSubject, Refusal> {
    let name: SubjectName = wire.name.parse()?;
    let init = text("init", wire.init.trim().to_owned(), 0..=MAX_INIT)?;
    if trains && init.is_empty() {
        let message =
            format!("init of subject {name} is empty; say what it is before anything is learned, as \"person\"");
        return Err(Refusal::new(ErrorCode::InitEmpty, message));
    }
    Ok(JobSubject { name, init })
}

fn distinct(subjects: &[JobSubject]) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    match subjects.iter().find(|subject| !seen.insert(&subject.name)) {
        Some(twice) => Err(Refusal::invalid(format!("subject {} is named twice; name it once", twice.name))),
        None => Ok(()),
    }
}

/// Tells a repeated request from a second one: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdempotencyKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(IdError::new("idempotency key", text, "1 to 128 visible ASCII characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

    fn request() -> v1::SubmitJobRequest {
        v1::SubmitJobRequest {
            idempotency_key: "k".into(),
            subjects: vec![v1::JobSubject { name: "anna".into(), init: " person ".into() }],
            train: Some(v1::TrainSpec::default()),
            render: Some(v1::RenderSpec {
                prompts: vec![v1::Prompt { text: "{subject} at sea".into(), seeds: vec![] }],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn refused(request: v1::SubmitJobRequest) -> Refusal {
        Submission::try_from(request).unwrap_err()
    }

    #[test]
    fn a_plain_request_takes_all_defaults() {
        let submission = Submission::try_from(request()).unwrap();
        assert_eq!(submission.subjects[0].init, "person");
        let specs = submission.resolve(&MODEL).unwrap();
        assert_eq!(specs.train.unwrap().resolution, 64);
        assert_eq!(specs.render.prompts[0].seeds, [0]);
    }

    #[test]
    fn training_needs_an_initial_phrase() {
        let mut wire = request();
        wire.subjects[0].init = "  ".into();
        assert_eq!(refused(wire.clone()).code, ErrorCode::InitEmpty);
        wire.train = None;
        assert!(!Submission::try_from(wire).unwrap().trains());
    }

    #[test]
    fn bad_requests_are_named() {
        type Break = fn(&mut v1::SubmitJobRequest);
        let broken: [(&str, Break); 6] = [
            ("idempotency key", |wire| wire.idempotency_key = "a b".into()),
            ("subjects holds 0", |wire| wire.subjects.clear()),
            ("named twice", |wire| wire.subjects.push(wire.subjects[0].clone())),
            ("priority is 101; accepted are -100 to 100", |wire| wire.priority = 101),
            ("render is missing", |wire| wire.render = None),
            ("base model digest", |wire| wire.base_model = "sha256:12".into()),
        ];
        for (named, break_it) in broken {
            let mut wire = request();
            break_it(&mut wire);
            let refusal = refused(wire);
            assert_eq!(refusal.code, ErrorCode::InvalidArgument);
            assert!(refusal.message.contains(named), "{}", refusal.message);
        }
    }
}
