use std::{path::Path, sync::LazyLock, time::Duration};

use likeness_diffusion::{Device, Embedding, Facts, RgbPixels};
use likeness_proto::{
    AssembleWork, Avatar, Fence, LeaseId, ObjectRef, Photo, Prefix, PreviewWork, RenderWork, Scheduler, Shot, TaskId,
    output_prefix, v1,
};
use likeness_worker::{Bucket, Stop, TaskProbe};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use v1::complete_request::Result as Outcome;

use super::*;
use crate::{
    batch::Step,
    picture::{read_xmp, to_png},
};

static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/avatar-tiny");
    Arc::new(BaseModel::load(&folder, &Device::Cpu).unwrap())
});

/// A bucket in a folder that lives as long as this.
struct Studio {
    folder: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
    sampler: Sampler,
}

impl Studio {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        Self { folder, store, sampler: Sampler::new(Arc::clone(&MODEL), options) }
    }

    fn bucket(&self, prefix: &Prefix) -> Bucket {
        Bucket::new(Arc::clone(&self.store), prefix.clone())
    }

    /// Puts an embedding that was learned on `base`.
    async fn embedding(&self, base: &str, vectors: usize) -> ObjectRef {
        self.embedding_of("person", base, vectors).await
    }

    /// Puts one whose rows are those of a word.
    async fn embedding_of(&self, word: &str, base: &str, vectors: usize) -> ObjectRef {
        let ids = MODEL.tokenizer.phrase(word);
        let rows = MODEL.text.rows(&ids[..1].repeat(vectors)).unwrap();
        let facts = Facts {
            base_model: base.parse().unwrap(),
            base_model_name: "avatar-tiny".to_owned(),
            steps: 0,
            loss: 0.5,
            seed: 0,
            version: "0.1.0".to_owned(),
            init: "person".to_owned(),
        };
        let file = Embedding { token: "<anna>".to_owned(), rows, facts: Some(facts) }.to_bytes().unwrap();
        self.bucket(&prefix(TaskKind::Train)).put("embedding.safetensors", file).await.unwrap()
    }

    async fn picture(&self, name: &str, side: usize, colour: [u8; 3]) -> ObjectRef {
        let pixels = RgbPixels { width: side, height: side, bytes: colour.repeat(side * side) };
        let provenance =
            Provenance { origin: Origin::Drawn, job: None, base_model: MODEL.digest.clone(), preview: None };
        self.bucket(&prefix(TaskKind::Render)).put(name, to_png(&pixels, &provenance).unwrap()).await.unwrap()
    }

    fn task(&self, grant: &Grant) -> (Task, TaskProbe) {
        Task::alone(grant, self.bucket(&grant.output_prefix))
    }

    async fn run(&self, work: Assignment) -> Result<Done, WorkError> {
        let grant = grant(work);
        let (task, _probe) = self.task(&grant);
        self.sampler.run(grant, task).await
    }

    fn read(&self, object: &Option<v1::ObjectRef>) -> Vec<u8> {
        std::fs::read(self.folder.path().join(&object.as_ref().unwrap().key)).unwrap()
    }
}

/// The files of three avatars of the model's own size, drawn so many at once.
async fn draw(at_once: usize) -> Vec<Vec<u8>> {
    let studio = Studio::with(Options { pixels_at_once: at_once * 128 * 128, ..Options::default() });
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let Assignment::Render(work) = render(embedding, three_shots()) else { unreachable!() };
    let done = studio.run(Assignment::Render(RenderWork { width: 128, height: 128, ..work })).await.unwrap();
    avatars(&done).iter().map(|avatar| studio.read(&avatar.object)).collect()
}

fn prefix(kind: TaskKind) -> Prefix {
    let lease = LeaseId { task: TaskId::new(), fence: Fence::new(1).unwrap() };
    output_prefix(&"default".parse().unwrap(), &"anna".parse().unwrap(), kind, lease)
}

fn grant(work: Assignment) -> Grant {
    Grant {
        lease: LeaseId { task: TaskId::new(), fence: Fence::new(1).unwrap() },
        lease_time: Duration::from_secs(30),
        attempt: 1,
        job: likeness_proto::JobId::new(),
        subject: "anna".parse().unwrap(),
        output_prefix: prefix(work.kind()),
        base_model: MODEL.digest.as_ref().parse().unwrap(),
        traceparent: None,
        work,
    }
}

fn shot(index: u32, prompt: &str) -> Shot {
    Shot { index, prompt: prompt.to_owned(), seed: u64::from(index) }
}

fn three_shots() -> Vec<Shot> {
    let prompts = ["a photo of {subject}", "pixel art of {subject}, smiling", "a sepia photo of {subject} in the snow"];
    (4..).zip(prompts).map(|(index, prompt)| shot(index, prompt)).collect()
}

fn render(embedding: ObjectRef, shots: Vec<Shot>) -> Assignment {
    Assignment::Render(RenderWork {
        embedding,
        shots,
        negative_prompt: String::new(),
        steps: 2,
        guidance: 4.0,
        scheduler: Scheduler::Ddim,
        width: 64,
        height: 64,
    })
}

fn avatars(done: &Done) -> &[v1::Avatar] {
    match &done.result {
        Outcome::Render(result) => &result.avatars,
        other => panic!("{other:?} is no render result"),
    }
}

fn failure(result: Result<Done, WorkError>) -> (ErrorCode, String, bool) {
    match result {
        Err(WorkError::Failed { code, message, retry }) => (code, message, retry),
        other => panic!("{other:?} is no failure"),
    }
}

#[tokio::test]
async fn a_render_task_gives_an_avatar_for_every_shot() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 2).await;
    let grant = grant(render(embedding, three_shots()));
    let (task, probe) = studio.task(&grant);

    let done = studio.sampler.run(grant.clone(), task).await.unwrap();

    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    assert_eq!(avatars(&done).len(), 3);
    for (avatar, shot) in avatars(&done).iter().zip(three_shots()) {
        let file = studio.read(&avatar.object);
        assert_eq!((avatar.index, &avatar.prompt, avatar.seed), (shot.index, &shot.prompt, shot.seed));
        assert!(avatar.object.as_ref().unwrap().key.starts_with(grant.output_prefix.as_str()));
        assert_eq!(image::load_from_memory(&file).unwrap().into_rgb8().dimensions(), (64, 64));
        let xmp = read_xmp(&file).unwrap().unwrap();
        assert!(xmp.contains(&grant.job.to_string()) && xmp.contains("/trainedAlgorithmicMedia"), "{xmp}");
        assert!(!xmp.contains("anna") && !xmp.contains("photo of"), "nothing personal: {xmp}");
    }
    let progress = v1::renewal::Progress::Render(v1::RenderReport { avatars_done: 3 });
    assert_eq!(probe.renew(), Some(progress));
}

#[tokio::test]
async fn a_preview_is_drawn_as_the_avatar_would_be_and_says_of_which_step_it_is() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 2).await;
    let Assignment::Render(work) = render(embedding, vec![shot(0, "a photo of {subject}")]) else { unreachable!() };
    let avatar = studio.run(Assignment::Render(work.clone())).await.unwrap();
    let grant = grant(Assignment::Preview(PreviewWork { render: work, step: 50 }));
    let (task, probe) = studio.task(&grant);
    let done = studio.sampler.run(grant.clone(), task).await.unwrap();

    let Outcome::Preview(v1::PreviewResult { picture }) = &done.result else { panic!("{done:?}") };
    assert!(picture.as_ref().unwrap().key.starts_with(grant.output_prefix.as_str()));
    let (drawn, file) = (studio.read(&avatars(&avatar)[0].object), studio.read(picture));
    let pixels = |file: &[u8]| image::load_from_memory(file).unwrap().into_rgb8().into_raw();
    assert!(pixels(&file) == pixels(&drawn), "with the same vectors they are the same picture");
    assert!(read_xmp(&file).unwrap().unwrap().contains("likeness:PreviewOfStep=\"50\""));
    assert!(!read_xmp(&drawn).unwrap().unwrap().contains("Preview"));
    assert_eq!((probe.renew(), done.warnings.len()), (None, 0), "it is no avatar that is done");
}

#[tokio::test]
async fn an_avatar_has_the_same_pixels_whatever_batch_it_was_drawn_in() {
    let together = draw(3).await;
    let pairs = draw(2).await;
    let alone = draw(1).await;

    let pixels = |file: &Vec<u8>| image::load_from_memory(file).unwrap().into_rgb8().into_raw();
    for index in 0..3 {
        assert!(pixels(&together[index]) == pixels(&alone[index]), "shot {index}, three at once and alone");
        assert!(pixels(&pairs[index]) == pixels(&alone[index]), "shot {index}, two at once and alone");
    }
}

#[tokio::test]
async fn a_successor_writes_the_same_bytes() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let first = grant(render(embedding, three_shots()));
    let second = Grant { attempt: 2, output_prefix: prefix(TaskKind::Render), ..first.clone() };

    let mut files = Vec::new();
    for grant in [first, second] {
        let (task, _probe) = studio.task(&grant);
        let done = studio.sampler.run(grant, task).await.unwrap();
        files.push(avatars(&done).iter().map(|avatar| studio.read(&avatar.object)).collect::<Vec<_>>());
    }

    assert_eq!(files[0], files[1]);
}

#[tokio::test]
async fn guidance_below_one_is_none() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let Assignment::Render(work) = render(embedding, vec![shot(0, "{subject}")]) else { unreachable!() };
    let mut files = Vec::new();
    for guidance in [0.0, 1.0] {
        let done = studio.run(Assignment::Render(RenderWork { guidance, ..work.clone() })).await.unwrap();
        files.push(studio.read(&avatars(&done)[0].object));
    }

    let [none, one] = [0, 1].map(|index| image::load_from_memory(&files[index]).unwrap().into_rgb8());
    assert!(none == one);
}

#[tokio::test]
async fn a_prompt_that_is_cut_is_warned_of_once() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let prompt = format!("a photo of {{subject}}{}", " smiling".repeat(80));

    let done = studio.run(render(embedding, vec![shot(0, &prompt), shot(1, &prompt)])).await.unwrap();

    assert_eq!(avatars(&done).len(), 2);
    let [warning] = done.warnings.as_slice() else { panic!("{:?}", done.warnings) };
    assert_eq!((warning.code(), warning.subject.as_str()), (v1::WarningCode::PromptCut, "anna"));
    assert!(warning.message.contains("77 tokens that the model reads; cut: \"smiling smiling"), "{}", warning.message);
}

#[tokio::test]
async fn a_prompt_whose_subject_does_not_fit_is_refused() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 4).await;
    let prompt = format!("{}a photo of {{subject}}", "smiling ".repeat(80));

    let (code, message, retry) = failure(studio.run(render(embedding, vec![shot(0, &prompt)])).await);

    assert_eq!((code, retry), (ErrorCode::PromptTooLong, false));
    assert!(message.contains("{subject} is cut off"), "{message}");
}

#[tokio::test]
async fn an_embedding_of_another_model_is_refused_with_both_digests() {
    let studio = Studio::new();
    let other = format!("sha256:{}", "ab".repeat(32));
    let embedding = studio.embedding(&other, 1).await;

    let (code, message, retry) = failure(studio.run(render(embedding, three_shots())).await);

    assert_eq!((code, retry), (ErrorCode::ModelMismatch, false));
    assert!(message.contains(&other) && message.contains(MODEL.digest.as_ref()), "{message}");
}

#[tokio::test]
async fn a_task_for_another_model_is_left_to_another_node() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let other = format!("sha256:{}", "ab".repeat(32));
    let grant = Grant { base_model: other.parse().unwrap(), ..grant(render(embedding, three_shots())) };
    let (task, _probe) = studio.task(&grant);

    let (code, _message, retry) = failure(studio.sampler.run(grant, task).await);

    assert_eq!((code, retry), (ErrorCode::ModelUnavailable, true));
}

#[tokio::test]
async fn a_file_that_is_no_embedding_is_refused() {
    let studio = Studio::new();
    let bucket = studio.bucket(&prefix(TaskKind::Train));
    let file = bucket.put("embedding.safetensors", b"no tensors".to_vec()).await.unwrap();

    let (code, message, _retry) = failure(studio.run(render(file, three_shots())).await);

    assert_eq!(code, ErrorCode::ObjectCorrupt);
    assert!(message.contains("embedding.safetensors"), "{message}");
}

#[tokio::test]
async fn an_embedding_is_pulled_once() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    studio.run(render(embedding.clone(), vec![shot(0, "{subject}")])).await.unwrap();
    studio.store.delete(&embedding.key.as_str().into()).await.unwrap();

    studio.run(render(embedding, vec![shot(1, "{subject}")])).await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_to_stop_draws_nothing() {
    let studio = Studio::new();
    let embedding = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let grant = grant(render(embedding, three_shots()));
    let (task, probe) = studio.task(&grant);
    probe.stop(Stop::Draining);

    assert_eq!(studio.sampler.run(grant, task).await, Err(WorkError::Stopped));
}

#[tokio::test]
async fn tasks_of_two_subjects_share_passes_and_one_that_stops_leaves_the_other_as_it_is() {
    let studio = Studio::new();
    let (person, red) = (
        studio.embedding_of("person", MODEL.digest.as_ref(), 1).await,
        studio.embedding_of("red", MODEL.digest.as_ref(), 2).await,
    );
    let alone = grant(render(person, three_shots()));
    let together = Grant { output_prefix: prefix(TaskKind::Render), ..alone.clone() };
    let alone = studio.sampler.run(alone.clone(), studio.task(&alone).0).await.unwrap();

    let Assignment::Render(endless) = render(red, vec![shot(0, "{subject}")]) else { unreachable!() };
    let endless = grant(Assignment::Render(RenderWork { steps: 999, ..endless }));
    let (task, probe) = studio.task(&endless);
    let beside = async {
        while studio.sampler.engine.tally().pictures <= 3 * 2 {
            tokio::task::yield_now().await; // the endless one is not under way yet
        }
        let done = studio.sampler.run(together.clone(), studio.task(&together).0).await.unwrap();
        probe.stop(Stop::Cancelled);
        done
    };
    let (stopped, done) = tokio::join!(studio.sampler.run(endless, task), beside);

    assert_eq!(stopped, Err(WorkError::Stopped));
    for (avatar, alone) in avatars(&done).iter().zip(avatars(&alone)) {
        assert!(studio.read(&avatar.object) == studio.read(&alone.object), "its file is the one it has alone");
    }
    let Step { passes, pictures } = studio.sampler.engine.tally();
    assert!(
        passes <= pictures - 3 * 2 - 2 * 2,
        "three pictures went along with another's two steps: {passes}, {pictures}"
    );
}

#[tokio::test]
async fn a_broken_embedding_fails_its_own_task() {
    let studio = Studio::new();
    let object = studio.embedding(MODEL.digest.as_ref(), 1).await;
    let Assignment::Render(work) = render(object.clone(), three_shots()) else { unreachable!() };
    let (task, _probe) = studio.task(&grant(Assignment::Render(work.clone())));
    let sound = studio.sampler.embedding(&work, &task).await.unwrap();
    // A file cannot hold such rows, so they are put where it would be kept.
    let broken = Embedding { rows: (&sound.rows * f64::NAN).unwrap(), ..Embedding::clone(&sound) };
    studio.sampler.embeddings.put(object.sha256, broken);

    let (code, message, retry) = failure(studio.run(render(object, three_shots())).await);

    assert_eq!((code, retry), (ErrorCode::Diverged, false));
    assert!(message.contains("not finite"), "{message}");
}

#[tokio::test]
async fn an_assemble_task_gives_a_contact_sheet() {
    let studio = Studio::new();
    let object = studio.picture("photo.png", 300, [200, 40, 40]).await;
    let photo = Photo { file_name: "1.jpg".to_owned(), object, width: 300, height: 300, caption: None };
    let mut avatars = Vec::new();
    for index in [1, 0] {
        let object = studio.picture(&format!("{index}.png"), 128, [40, 40, 200]).await;
        avatars.push(Avatar { object, prompt: "a photo of {subject}".to_owned(), seed: 7, index });
    }

    let done = studio.run(Assignment::Assemble(AssembleWork { photos: vec![photo], avatars })).await.unwrap();

    let Outcome::Assemble(result) = done.result else { panic!("{:?}", done.result) };
    assert!(result.contact_sheet.as_ref().unwrap().key.ends_with("/contact-sheet.png"));
    let file = studio.read(&result.contact_sheet);
    let sheet = image::load_from_memory(&file).unwrap().into_rgb8();
    for colour in [[200, 40, 40], [40, 40, 200]] {
        assert!(sheet.pixels().filter(|pixel| pixel.0 == colour).count() > 10_000, "{colour:?} is shown");
    }
    assert!(read_xmp(&file).unwrap().unwrap().contains("/compositeWithTrainedAlgorithmicMedia"));
}
