//! People: they submit jobs, insist on an answer, and look until the job has ended. Some change their minds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use likeness_proto::v1::avatars_client::AvatarsClient;
use likeness_proto::v1::{self, Job};
use likeness_proto::{Bearer, ErrorCode, Refusal, Secret};
use tokio::time::{sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::{Response, Status};

use super::chance::Chance;
use super::network::Caller;

/// What was asked for, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) request: v1::SubmitJobRequest,
    after: Duration,
    /// So long after it was accepted, somebody thinks better of it.
    cancel: Option<Duration>,
    forget: Option<Duration>,
    /// The job as it was accepted, and then as it was last seen.
    pub(super) job: Option<Job>,
    pub(super) cancelled: bool,
    /// The first subject of the job was erased, or was to be.
    pub(super) forgotten: bool,
    pub(super) refused: Option<Refusal>,
    /// What people must not see.
    pub(super) wrong: Vec<String>,
    pub(super) done: bool,
}

/// Whether nothing more will happen to a job.
pub(super) fn has_ended(job: &Job) -> bool {
    job.ended_at.is_some()
}

pub(super) type Wishes = Arc<Mutex<Vec<Wish>>>;

pub(super) const SUBJECTS: [&str; 3] = ["ada", "bob", "eve"];

/// What people of a seed will want.
pub(super) fn wishes(chance: &Chance) -> Wishes {
    let wish = |number: u64| {
        let first = chance.below(3) as usize;
        let names = [SUBJECTS[first], SUBJECTS[(first + 1) % 3]];
        let seeds: Vec<u64> = (1..=1 + chance.below(3)).collect();
        let prompt = |text: &str| v1::Prompt { text: format!("{{subject}} {text}"), seeds: seeds.clone() };
        let subject = |name: &&str| v1::JobSubject { name: (*name).into(), init: "person".into() };
        let request = v1::SubmitJobRequest {
            idempotency_key: format!("wish-{number}"),
            subjects: names[..1 + chance.below(2) as usize].iter().map(subject).collect(),
            train: Some(v1::TrainSpec::default()),
            render: Some(v1::RenderSpec { prompts: vec![prompt("at sea"), prompt("in snow")], ..Default::default() }),
            ..Default::default()
        };
        let later = |odds| chance.one_in(odds).then(|| chance.millis(1000, 20_000));
        let (after, cancel, forget) = (chance.millis(0, 10_000), later(6), later(12));
        let (job, refused, wrong) = (None, None, vec![]);
        Wish { request, after, cancel, forget, job, cancelled: false, forgotten: false, refused, wrong, done: false }
    };
    Arc::new(Mutex::new((0..2 + chance.below(2)).map(wish).collect()))
}

type Client = AvatarsClient<InterceptedService<Caller, Bearer>>;
type Asking<T> = BoxFuture<'static, Result<Response<T>, Status>>;

macro_rules! calls {
    ($($call:ident: $ask:ident -> $answer:ident),+) => {
        $(fn $call(mut client: Client, ask: v1::$ask) -> Asking<v1::$answer> {
            Box::pin(async move { client.$call(ask).await })
        })+
    };
}
calls! {
    submit_job: SubmitJobRequest -> Job,
    get_job: GetJobRequest -> Job,
    cancel_job: CancelJobRequest -> Job,
    forget_subject: ForgetSubjectRequest -> ForgetReceipt
}

/// One of the people, and its wish.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) caller: Caller,
    pub(super) token: Secret,
    pub(super) chance: Arc<Chance>,
    pub(super) wishes: Wishes,
    pub(super) own: usize,
}

/// An answer that does not come is waited for so long.
const LIMIT: Duration = Duration::from_secs(5);

impl Person {
    fn client(&self) -> Client {
        AvatarsClient::with_interceptor(self.caller.clone(), Bearer::new(&self.token))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Wish) -> T) -> T {
        change(&mut self.wishes.lock().unwrap_or_else(PoisonError::into_inner)[self.own])
    }

    /// Asks until there is an answer.
    async fn insist<T>(&self, ask: impl Fn(Client) -> Asking<T>) -> Result<T, Refusal> {
        loop {
            let refusal = match timeout(LIMIT, ask(self.client())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => Refusal::read(&status),
                Err(_elapsed) => Refusal::new(ErrorCode::Unavailable, "no answer"),
            };
            self.chance.note(format_args!("people hear {:?}", refusal.code));
            match refusal.code {
                ErrorCode::Unavailable
                | ErrorCode::StorageUnavailable
                | ErrorCode::StorageFull
                | ErrorCode::QuotaExceeded
                | ErrorCode::ModelUnavailable
                | ErrorCode::Internal => sleep(self.chance.millis(200, 1000)).await,
                _ => return Err(refusal),
            }
        }
    }

    /// Lives until its job has ended.
    pub(super) async fn live(self) {
        let wish = self.change(|wish| wish.clone());
        sleep(wish.after).await;
        match self.insist(|client| submit_job(client, wish.request.clone())).await {
            Ok(job) => self.change(|wish| wish.job = Some(job)),
            Err(refusal) => return self.change(|wish| (wish.refused, wish.done) = (Some(refusal), true)),
        }
        tokio::join!(self.follow(), self.cancel(wish.cancel), self.forget(wish.forget));
        self.change(|wish| wish.done = true);
    }

    fn job(&self) -> Job {
        self.change(|wish| wish.job.clone()).expect("it was accepted")
    }

    async fn follow(&self) {
        while !has_ended(&self.job()) {
            sleep(self.chance.millis(500, 1500)).await;
            let ask = v1::GetJobRequest { job_id: self.job().id };
            match self.insist(|client| get_job(client, ask.clone())).await {
                Ok(now) => self.change(|wish| wish.saw(now)),
                Err(refusal) => return self.change(|wish| wish.wrong.push(format!("an accepted job: {refusal:?}"))),
            }
        }
    }

    async fn cancel(&self, after: Option<Duration>) {
        let Some(after) = after else { return };
        sleep(after).await;
        self.change(|wish| wish.cancelled = true);
        let ask = v1::CancelJobRequest { job_id: self.job().id };
        let answer = self.insist(|client| cancel_job(client, ask.clone())).await;
        self.chance.note(format_args!("cancelled: {:?}", answer.map(|job| job.state)));
    }

    async fn forget(&self, after: Option<Duration>) {
        let Some(after) = after else { return };
        sleep(after).await;
        let subject = self.job().subjects[0].subject.clone();
        for wish in &mut *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) {
            wish.forgotten |= wish.request.subjects.iter().any(|named| named.name == subject);
        }
        let ask = v1::ForgetSubjectRequest { subject };
        let answer = self.insist(|client| forget_subject(client, ask.clone())).await;
        self.chance.note(format_args!("forgotten: {:?}", answer.map(|receipt| receipt.avatars)));
    }
}

impl Wish {
    /// The job was seen again.
    fn saw(&mut self, now: Job) {
        let before = self.job.as_ref().expect("it was accepted");
        if now.revision < before.revision {
            return; // answers overtake each other
        }
        let drawn = |job: &Job| job.subjects.iter().map(|subject| subject.avatars.len()).sum::<usize>();
        if drawn(&now) < drawn(before) && !self.forgotten {
            self.wrong.push(format!("avatars of job {} are gone: {} of {}", now.id, drawn(&now), drawn(before)));
        }
        self.job = Some(now);
    }
}
