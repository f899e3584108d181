//! No target: writes good inputs of `wire` and `embedding` into the folder named by `FUZZ_SEEDS`, for mutation. Linked like the
//! targets, so that nothing is compiled twice.
#![no_main]

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use libfuzzer_sys::fuzz_target;
use likeness_diffusion::{Device, Embedding, Facts, Tensor};
use likeness_proto::{Capacity, ErrorCode, PROTOCOL_VERSION, Refusal, Scheduler, StopReason, TaskKind, v1};
use prost::Message;
use tonic::Status;

const ID: &str = "0190f5fe-7c00-7000-8000-000000000001";

fuzz_target!(
    init: {
        let folder = env::var("FUZZ_SEEDS").expect("FUZZ_SEEDS names a folder");
        write(Path::new(&folder).join("wire"), messages());
        write(Path::new(&folder).join("embedding"), embeddings());
    },
    |_data: &[u8]| {}
);

fn write(folder: impl AsRef<Path>, files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (name, bytes) in files {
        fs::write(folder.as_ref().join(name), bytes).expect("the file can be written");
    }
}

fn messages() -> [(&'static str, Vec<u8>); 18] {
    use v1::complete_request::Result as Done;
    use v1::grant::Work;
    let id = || ID.to_owned();
    let complete = |result| {
        v1::CompleteRequest { incarnation: id(), task_id: id(), fence: 1, result: Some(result), warnings: vec![] }
            .encode_to_vec()
    };
    [
        ("grant-train", grant(Work::Train(train())).encode_to_vec()),
        ("grant-render", grant(Work::Render(render())).encode_to_vec()),
        ("grant-assemble", grant(Work::Assemble(assemble())).encode_to_vec()),
        ("grant-preview", grant(Work::Preview(v1::PreviewWork { render: Some(render()), step: 50 })).encode_to_vec()),
        ("submit", submission().encode_to_vec()),
        ("header", v1::SubjectHeader { subject: "anna".into(), consent: Some(consent()) }.encode_to_vec()),
        (
            "photo-header",
            v1::PhotoHeader { file_name: "1.png".into(), size: 9, caption: "{subject}".into() }.encode_to_vec(),
        ),
        ("photo", photo().encode_to_vec()),
        ("avatar", avatar().encode_to_vec()),
        ("register", register().encode_to_vec()),
        (
            "lease",
            v1::LeaseRequest { incarnation: id(), kinds: kinds(), capacity: 2, wait_ms: 1000, previews: true }
                .encode_to_vec(),
        ),
        ("renew", v1::RenewRequest { incarnation: id(), renewals: renewals() }.encode_to_vec()),
        (
            "complete-train",
            complete(Done::Train(v1::TrainResult {
                embedding: Some(object()),
                outcome: Some(outcome()),
                last: Some(report()),
            })),
        ),
        ("complete-render", complete(Done::Render(v1::RenderResult { avatars: vec![avatar()], seconds: 1.5 }))),
        ("complete-assemble", complete(Done::Assemble(v1::AssembleResult { contact_sheet: Some(object()) }))),
        ("complete-preview", complete(Done::Preview(v1::PreviewResult { picture: Some(object()) }))),
        ("release", v1::ReleaseRequest { incarnation: id(), task_id: id(), fence: 1 }.encode_to_vec()),
        ("status", refusal()),
    ]
}

fn object() -> v1::ObjectRef {
    v1::ObjectRef { key: "v1/acme/anna/photos/1.png".into(), sha256: vec![7; 32], size: 9 }
}

fn photo() -> v1::Photo {
    v1::Photo {
        file_name: "1.png".into(),
        object: Some(object()),
        width: 64,
        height: 64,
        caption: "a {subject}".into(),
    }
}

fn avatar() -> v1::Avatar {
    v1::Avatar { object: Some(object()), prompt: "{subject} at sea".into(), seed: 3, index: 0 }
}

fn consent() -> v1::Consent {
    v1::Consent { attested_by: "Anna".into(), capacity: Capacity::Self_.encode(), statement: "I agree".into() }
}

fn kinds() -> Vec<i32> {
    TaskKind::ALL.iter().map(|kind| kind.encode()).collect()
}

fn register() -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        worker: "gpu-1".into(),
        incarnation: ID.into(),
        kinds: kinds(),
        models: vec![v1::BaseModel { digest: digest(), name: "tiny".into(), native_size: 64, factor: 8 }],
        software: "0.1.0".into(),
        previews: true,
    }
}

fn digest() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

fn report() -> v1::TrainReport {
    v1::TrainReport {
        step: 2,
        steps_per_second: 1.5,
        losses: vec![0.5, 0.25],
        evaluations: vec![v1::Evaluation { step: 2, loss: 0.3 }],
        checkpoint: Some(v1::Checkpoint { object: Some(object()), step: 2 }),
        preview: Some(v1::Snapshot { embedding: Some(object()), step: 2 }),
    }
}

fn renewals() -> Vec<v1::Renewal> {
    use v1::renewal::Progress;
    let renewal = |progress| v1::Renewal { task_id: ID.into(), fence: 1, progress: Some(progress) };
    vec![renewal(Progress::Train(report())), renewal(Progress::Render(v1::RenderReport { avatars_done: 1 }))]
}

fn outcome() -> v1::TrainOutcome {
    v1::TrainOutcome {
        steps: 9,
        stop_reason: StopReason::ALL[0].encode(),
        evaluation_loss_first: 0.5,
        evaluation_loss_best: 0.25,
        best_step: 5,
        seconds: 1.0,
    }
}

fn grant(work: v1::grant::Work) -> v1::Grant {
    v1::Grant {
        task_id: ID.into(),
        fence: 1,
        lease_ms: 15_000,
        attempt: 1,
        job_id: ID.into(),
        subject: "anna".into(),
        output_prefix: format!("v1/acme/anna/train/{ID}/1/"),
        base_model: digest(),
        traceparent: String::new(),
        work: Some(work),
    }
}

fn train() -> v1::TrainWork {
    v1::TrainWork {
        spec: Some(train_spec()),
        photos: vec![photo()],
        init: "person".into(),
        token: "<anna>".into(),
        checkpoint: Some(v1::Checkpoint { object: Some(object()), step: 5 }),
    }
}

fn train_spec() -> v1::TrainSpec {
    let model = likeness_proto::ModelFacts { native_size: 64, factor: 8 };
    likeness_proto::TrainSpec::resolve(v1::TrainSpec::default(), &model).expect("the defaults are good").into()
}

fn render() -> v1::RenderWork {
    v1::RenderWork {
        embedding: Some(object()),
        shots: vec![v1::Shot { index: 0, prompt: "{subject} at sea".into(), seed: 3 }],
        negative_prompt: "blur".into(),
        steps: 25,
        guidance: 4.0,
        scheduler: Scheduler::ALL[0].encode(),
        width: 64,
        height: 64,
    }
}

fn assemble() -> v1::AssembleWork {
    v1::AssembleWork { photos: vec![photo()], avatars: vec![avatar()] }
}

fn submission() -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        idempotency_key: "key".into(),
        subjects: vec![v1::JobSubject { name: "anna".into(), init: "person".into() }],
        train: Some(train_spec()),
        render: Some(v1::RenderSpec {
            prompts: vec![v1::Prompt { text: "{subject} at sea".into(), seeds: vec![1, 2] }],
            ..Default::default()
        }),
        base_model: digest(),
        priority: 3,
    }
}

/// The details of a status, with a time to wait.
fn refusal() -> Vec<u8> {
    let refusal = Refusal::new(ErrorCode::Overloaded, "try later").retry_after(Duration::from_millis(1500));
    Status::from(refusal).details().to_vec()
}

fn embeddings() -> [(&'static str, Vec<u8>); 2] {
    let facts = Facts {
        base_model: digest().parse().expect("a digest"),
        base_model_name: "tiny".into(),
        steps: 125,
        loss: 0.25,
        seed: 3,
        version: "0.1.0".into(),
        init: "person".into(),
    };
    let file = |facts| {
        let rows = Tensor::new(&[[1f32, -0.5], [0.25, 2.0]], &Device::Cpu).expect("rows");
        Embedding { token: "<anna>".into(), rows, facts }.to_bytes().expect("a good embedding")
    };
    [("ours", file(Some(facts))), ("foreign", file(None))]
}
