//! Messages of the wire: every `TryFrom` of the protocol, each for the same bytes.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use likeness_proto::{
    AssembleWork, Avatar, BaseModel, Checkpoint, Completion, Consent, Evaluation, Failure, Grant, LeaseAsk, ModelFacts,
    ObjectRef, Outcome, Photo, PhotoHeader, Prompt, Refusal, Registration, Release, RenderSpec, RenderWork, Renewal,
    Renewals, Shot, SubjectHeader, Submission, TaskResult, TextualInversion, TrainReport, TrainSpec, TrainWork, v1,
};
use prost::Message;
use tonic::{Code, Status};

const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

fn decoded<W: Message + Default, D: TryFrom<W>>(bytes: &[u8]) -> Option<D> {
    W::decode(bytes).ok().and_then(|wire| D::try_from(wire).ok())
}

/// What was accepted is sent on and accepted as the same.
fn comes_back<W, D>(bytes: &[u8])
where
    W: Message + Default + From<D>,
    D: TryFrom<W> + Clone + PartialEq + Debug,
{
    if let Some(value) = decoded::<W, D>(bytes) {
        let sent = W::from(value.clone()).encode_to_vec();
        assert_eq!(decoded::<W, D>(&sent), Some(value));
    }
}

fuzz_target!(|bytes: &[u8]| {
    comes_back::<v1::ObjectRef, ObjectRef>(bytes);
    comes_back::<v1::Photo, Photo>(bytes);
    comes_back::<v1::Checkpoint, Checkpoint>(bytes);
    comes_back::<v1::Avatar, Avatar>(bytes);
    comes_back::<v1::BaseModel, BaseModel>(bytes);
    comes_back::<v1::Consent, Consent>(bytes);
    comes_back::<v1::TrainSpec, TrainSpec>(bytes);
    comes_back::<v1::TextualInversion, TextualInversion>(bytes);
    comes_back::<v1::RenderSpec, RenderSpec>(bytes);

    decoded::<v1::SubjectHeader, SubjectHeader>(bytes);
    decoded::<v1::PhotoHeader, PhotoHeader>(bytes);
    decoded::<v1::Prompt, Prompt>(bytes);
    decoded::<v1::RegisterRequest, Registration>(bytes);
    decoded::<v1::LeaseRequest, LeaseAsk>(bytes);
    decoded::<v1::RenewRequest, Renewals>(bytes);
    decoded::<v1::Renewal, Renewal>(bytes);
    decoded::<v1::TrainReport, TrainReport>(bytes);
    decoded::<v1::Evaluation, Evaluation>(bytes);
    decoded::<v1::CompleteRequest, Completion>(bytes);
    decoded::<v1::TrainOutcome, Outcome>(bytes);
    decoded::<v1::FailRequest, Failure>(bytes);
    decoded::<v1::ReleaseRequest, Release>(bytes);
    decoded::<v1::Grant, Grant>(bytes);
    decoded::<v1::TrainWork, TrainWork>(bytes);
    decoded::<v1::RenderWork, RenderWork>(bytes);
    decoded::<v1::Shot, Shot>(bytes);
    decoded::<v1::AssembleWork, AssembleWork>(bytes);
    if let Some(wire) = v1::CompleteRequest::decode(bytes).ok().and_then(|wire| wire.result) {
        let _ = TaskResult::try_from(wire);
    }
    if let Some(submission) = decoded::<v1::SubmitJobRequest, Submission>(bytes) {
        let _ = submission.resolve(&MODEL);
    }

    let refusal = Refusal::read(&Status::with_details(Code::Internal, "", bytes.to_vec().into()));
    assert_eq!(Refusal::read(&Status::from(refusal.clone())), refusal);
});
