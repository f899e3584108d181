//! Whatever bytes come over the wire, decoding them ends in a value or in a refusal.

#![allow(clippy::unwrap_used)] // clippy sees a test only in functions that are marked as one

use likeness_proto::{
    Completion, Consent, Failure, Grant, LeaseAsk, ModelFacts, ObjectRef, PhotoHeader, Registration, Release,
    RenderSpec, Renewals, SubjectHeader, Submission, TrainSpec, v1,
};
use proptest::prelude::*;
use prost::Message;

const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

fn object() -> v1::ObjectRef {
    v1::ObjectRef { key: "v1/acme/anna/photos/1.png".into(), sha256: vec![7; 32], size: 9 }
}

fn submission() -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        idempotency_key: "key".into(),
        subjects: vec![v1::JobSubject { name: "anna".into(), init: "person".into() }],
        train: Some(v1::TrainSpec { seed: Some(3), ..Default::default() }),
        render: Some(v1::RenderSpec {
            prompts: vec![v1::Prompt { text: "{subject} at sea".into(), seeds: vec![1, 2] }],
            ..Default::default()
        }),
        base_model: format!("sha256:{}", "ab".repeat(32)),
        priority: 3,
    }
}

fn grant() -> v1::Grant {
    let id = "0190f5fe-7c00-7000-8000-000000000001";
    let spec = TrainSpec::resolve(v1::TrainSpec::default(), &MODEL).unwrap();
    v1::Grant {
        task_id: id.into(),
        fence: 1,
        lease_ms: 15_000,
        attempt: 1,
        job_id: id.into(),
        subject: "anna".into(),
        output_prefix: format!("v1/acme/anna/train/{id}/1/"),
        base_model: format!("sha256:{}", "ab".repeat(32)),
        traceparent: String::new(),
        work: Some(v1::grant::Work::Train(v1::TrainWork {
            spec: Some(spec.into()),
            photos: vec![v1::Photo {
                file_name: "1.png".into(),
                object: Some(object()),
                width: 64,
                height: 64,
                caption: String::new(),
            }],
            init: "person".into(),
            token: "<anna>".into(),
            checkpoint: Some(v1::Checkpoint { object: Some(object()), step: 5 }),
        })),
    }
}

/// Decodes `bytes` as everything that is decoded anywhere; whether any of it was accepted.
fn decode_as_everything(bytes: &[u8]) -> bool {
    fn as_one<W: Message + Default, D: TryFrom<W>>(bytes: &[u8]) -> bool {
        W::decode(bytes).is_ok_and(|wire| D::try_from(wire).is_ok())
    }
    let resolved = v1::SubmitJobRequest::decode(bytes)
        .is_ok_and(|wire| Submission::try_from(wire).is_ok_and(|submission| submission.resolve(&MODEL).is_ok()));
    [
        resolved,
        as_one::<v1::SubjectHeader, SubjectHeader>(bytes),
        as_one::<v1::Consent, Consent>(bytes),
        as_one::<v1::PhotoHeader, PhotoHeader>(bytes),
        as_one::<v1::TrainSpec, TrainSpec>(bytes),
        as_one::<v1::RenderSpec, RenderSpec>(bytes),
        as_one::<v1::ObjectRef, ObjectRef>(bytes),
        as_one::<v1::RegisterRequest, Registration>(bytes),
        as_one::<v1::LeaseRequest, LeaseAsk>(bytes),
        as_one::<v1::RenewRequest, Renewals>(bytes),
        as_one::<v1::CompleteRequest, Completion>(bytes),
        as_one::<v1::FailRequest, Failure>(bytes),
        as_one::<v1::ReleaseRequest, Release>(bytes),
        as_one::<v1::Grant, Grant>(bytes),
    ]
    .contains(&true)
}

#[test]
fn the_messages_that_are_mutated_below_are_good() {
    assert!(Submission::try_from(submission()).unwrap().resolve(&MODEL).is_ok());
    assert!(Grant::try_from(grant()).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        granted: bool,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = if granted { grant().encode_to_vec() } else { submission().encode_to_vec() };
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        decode_as_everything(&bytes);
    }
}
