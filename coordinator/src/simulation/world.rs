//! Hosts, a network, a store and a bucket, and what happens to them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use likeness_proto::{
    BaseModel, Capacity, Consent, ModelFacts, ObjectRef, Photo, Secret, Sha256, TaskKind, TenantId, photo_key,
};
use likeness_worker::{Backoff, NodeOptions, Way};
use object_store::memory::InMemory;
use tokio_util::sync::CancellationToken;

use super::bucket::Faulty;
use super::chance::{Chance, Kind};
use super::host::{Health, Host, Process, Role};
use super::network::{Caller, Network, Parcel, Reply, opened};
use super::people::{Person, SUBJECTS, Wishes, wishes};
use super::work::{Findings, StandIn};
use crate::access::{Gate, Pepper, Tokens};
use crate::audit::{Actor, Blind};
use crate::bucket::Bucket;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::limits::Limits;
use crate::office::Office;
use crate::store::memory::{Database, Memory};
use crate::store::{Policy, Store};
use crate::sweep::{self, Turn};

pub(super) const LEASE: Duration = Duration::from_secs(3);
const COORDINATORS: usize = 2;
/// How long a host goes on before the next one does, while messages are under way.
const TICK: Duration = Duration::from_millis(20);
/// While there are none.
const QUIET: Duration = Duration::from_millis(100);
/// The clock of the store is set by this much.
const SKEW: i64 = 5 * 60 * 1000;

/// The store's clock: the world's time, and what it was set by.
struct StoreClock {
    chance: Arc<Chance>,
    offset: AtomicI64,
}

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        let begin = 1_800_000_000_000 + self.offset.load(Ordering::SeqCst);
        Timestamp::from_millis(begin) + self.chance.now()
    }
}

pub(super) struct World {
    pub(super) chance: Arc<Chance>,
    pub(super) database: Arc<Database>,
    pub(super) bucket: Arc<InMemory>,
    pub(super) wishes: Wishes,
    pub(super) findings: Arc<Findings>,
    clock: Arc<StoreClock>,
    network: Arc<Network>,
    hosts: Vec<Host>,
    policy: Policy,
    token: Secret,
    /// Kinds of a sampler.
    draws: &'static [TaskKind],
}

fn tenant() -> TenantId {
    "default".parse().expect("a tenant")
}

impl World {
    /// `draws`: what samplers ask for.
    pub(super) fn new(chance: Arc<Chance>, attempts: u32, draws: &'static [TaskKind]) -> Self {
        let offset = AtomicI64::new(0);
        let clock = Arc::new(StoreClock { chance: Arc::clone(&chance), offset });
        let network = Arc::new(Network::new(Arc::clone(&chance), COORDINATORS));
        let token = Secret::new("of-all").expect("a token");
        let mut world = Self {
            database: Arc::default(),
            bucket: Arc::new(InMemory::new()),
            wishes: wishes(&chance),
            findings: Arc::default(),
            clock,
            network,
            hosts: Vec::new(),
            policy: Policy { lease: LEASE, attempts, base_model: None, blind: Blind::new(&token) },
            token,
            draws,
            chance,
        };
        world.put_photos();
        let roles = (0..COORDINATORS).map(Role::Coordinator);
        let workers = [Role::Trainer, Role::Trainer, Role::Sampler, Role::Sampler];
        for (number, role) in roles.chain(workers).chain([Role::People]).enumerate() {
            let name = format!("{role:?}-{number}").to_lowercase().into();
            let (health, inbox) = (Health::Down { until: Duration::ZERO }, Vec::new());
            world.hosts.push(Host { name, role, health, process: None, inbox });
        }
        world
    }

    /// Subjects whose photos were stored before anything happens.
    fn put_photos(&self) {
        let store = Memory::open(&self.database, self.clock.clone(), self.policy.clone());
        let consent = Consent { attested_by: "Ada".into(), capacity: Capacity::Self_, statement: "that is me".into() };
        self.alone(async {
            let bucket = Bucket::new(self.bucket.clone(), None);
            for subject in SUBJECTS {
                let (tenant, name) = (tenant(), subject.parse().expect("a name"));
                let bytes = format!("photo of {subject}").into_bytes();
                let object = ObjectRef::of(photo_key(&tenant, &name, &Sha256::of(&bytes)), &bytes);
                let upload = store.begin_upload(&tenant, &name).await.expect("it is calm");
                bucket.put(&object.key, bytes).await.expect("it is calm");
                let photo = Photo { file_name: "a.png".into(), object, width: 64, height: 64, caption: None };
                store.commit_upload(&upload, &consent, &[photo], &Actor::embedded()).await.expect("it is calm");
            }
        });
    }

    /// Runs something beside the world, in no time.
    fn alone<T>(&self, act: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(act)
    }

    fn faulty(&self) -> Arc<Faulty> {
        Arc::new(Faulty { inner: self.bucket.clone(), chance: self.chance.clone() })
    }

    fn start(&self, host: &Host) -> Process {
        self.chance.note(format_args!("{} starts", host.name));
        match host.role {
            Role::Coordinator(_) => self.coordinator(),
            Role::Trainer => self.worker(&host.name, &[TaskKind::Train]),
            Role::Sampler => self.worker(&host.name, self.draws),
            Role::People => self.people(&host.name),
        }
    }

    fn coordinator(&self) -> Process {
        let (clock, policy) = (self.clock.clone(), self.policy.clone());
        let (database, chance) = (self.database.clone(), self.chance.clone());
        let (bucket, token, own) = (self.faulty(), self.token.clone(), self.chance.uuid());
        Process::start(move |shutdown, desks| async move {
            let office = loop {
                let store = Memory::in_weather(&database, clock.clone(), policy.clone(), chance.clone());
                let bucket = Bucket::new(bucket.clone(), None);
                match Office::open(store, bucket, Limits::default(), &[tenant()], own, &shutdown).await {
                    Ok(office) => break office,
                    Err(refusal) => chance.note(format_args!("a coordinator does not start: {:?}", refusal.code)),
                }
                tokio::time::sleep(chance.millis(200, 1000)).await;
            };
            let (tokens, pepper) = (Tokens::embedded(tenant(), &token), Pepper::new(token.clone()));
            let (shared, clock) = (Arc::clone(&office.shared), Arc::new(SystemClock));
            desks.open(&Arc::new(Gate { tokens, pepper, shared, tls: None, people: None, clock }));
            shutdown.cancelled().await;
            office.close().await;
        })
    }

    fn worker(&self, name: &Arc<str>, kinds: &[TaskKind]) -> Process {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
        let facts = ModelFacts { native_size: 64, factor: 8 };
        let options = NodeOptions {
            coordinator: Way::by(self.caller(name)),
            token: Some(self.token.clone()),
            name: name.to_string(),
            incarnation: self.chance.incarnation(),
            models: vec![BaseModel { digest, name: "tiny".into(), facts }],
            slots: (1 + self.chance.below(2) as usize).try_into().expect("not 0"),
            bucket: self.faulty(),
            drain_grace: LEASE,
            backoff: Backoff::default(),
            registered: Arc::default(),
        };
        let (chance, findings) = (self.chance.clone(), self.findings.clone());
        let work = StandIn { kinds: kinds.to_vec(), chance, findings: findings.clone() };
        Process::start(move |shutdown, _desks| async move {
            if let Err(error) = likeness_worker::run(options, Arc::new(work), shutdown).await {
                findings.wrong(format!("a worker ended by itself: {error}"));
            }
        })
    }

    fn caller(&self, from: &Arc<str>) -> Caller {
        Caller { network: self.network.clone(), from: from.clone() }
    }

    fn people(&self, name: &Arc<str>) -> Process {
        let wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner).len();
        let person = |own| Person {
            caller: self.caller(name),
            token: self.token.clone(),
            chance: self.chance.clone(),
            wishes: self.wishes.clone(),
            own,
        };
        let lives: Vec<_> = (0..wishes).map(|own| person(own).live()).collect();
        Process::start(move |_shutdown, _desks| async move { drop(futures::future::join_all(lives).await) })
    }

    /// Lets everything go on for a moment.
    pub(super) fn tick(&mut self) {
        let time = if self.network.is_quiet() { QUIET } else { TICK };
        for index in 0..self.hosts.len() {
            self.mishap(index);
            self.recover(index);
        }
        self.set_clock();
        for parcel in self.network.arrivals() {
            self.deliver(parcel);
        }
        for host in &self.hosts {
            if let (Health::Up | Health::Draining, Some(process)) = (host.health, &host.process) {
                process.step(time);
            }
        }
        self.chance.pass(time);
    }

    /// Something may happen to a host.
    fn mishap(&mut self, index: usize) {
        const ODDS: u64 = 300;
        let now = self.chance.now();
        let (killed, frozen) = match self.hosts[index].role {
            Role::Coordinator(_) => (Kind::CoordinatorKilled, Kind::CoordinatorFrozen),
            Role::Trainer => (Kind::TrainerKilled, Kind::WorkerFrozen),
            Role::Sampler => (Kind::SamplerKilled, Kind::WorkerFrozen),
            Role::People => return,
        };
        if self.hosts[index].health != Health::Up {
            return;
        }
        let is_worker = frozen == Kind::WorkerFrozen;
        if self.chance.strikes(killed, ODDS) {
            self.hosts[index].process = None;
            self.hosts[index].health = Health::Down { until: now + self.chance.millis(200, 8000) };
        } else if self.chance.strikes(frozen, ODDS) {
            let until = now + LEASE + self.chance.millis(500, 10_000);
            self.hosts[index].health = Health::Frozen { since: now, until };
        } else if is_worker && self.chance.strikes(Kind::WorkerDrained, ODDS) {
            self.hosts[index].process.iter().for_each(|process| process.shutdown.cancel());
            self.hosts[index].health = Health::Draining;
        } else if is_worker && self.chance.strikes(Kind::WorkerCutOff, ODDS) {
            self.network.cut(&self.hosts[index].name, now + self.chance.millis(1000, 12_000));
        } else if !is_worker && self.chance.one_in(ODDS) {
            self.collect(index);
        } else {
            return;
        }
        self.chance.note(format_args!("{}: {:?}", self.hosts[index].name, self.hosts[index].health));
    }

    /// A coordinator looks for garbage, as it does now and then.
    fn collect(&self, index: usize) {
        let store = Memory::in_weather(&self.database, self.clock.clone(), self.policy.clone(), self.chance.clone());
        let (bucket, own, chance) = (Bucket::new(self.faulty(), None), self.chance.uuid(), self.chance.clone());
        if let Some(process) = &self.hosts[index].process {
            process.runtime.spawn(async move {
                let turn = Turn { store: &store, own, shutdown: &CancellationToken::new() };
                chance.note(format_args!(
                    "collected: {:?}",
                    sweep::collect(&turn, &bucket).await.map_err(|error| error.code)
                ));
            });
        }
    }

    /// A host comes back.
    fn recover(&mut self, index: usize) {
        let now = self.chance.now();
        match self.hosts[index].health {
            Health::Down { until } if until <= now => {
                let process = self.start(&self.hosts[index]);
                self.hosts[index].process = Some(process);
            }
            Health::Frozen { since, until } if until <= now => {
                let host = &mut self.hosts[index];
                let waiting = std::mem::take(&mut host.inbox);
                host.health = Health::Up;
                host.process.iter().for_each(|process| process.wake(now - since));
                waiting.into_iter().for_each(|parcel| self.deliver(parcel));
            }
            Health::Draining if self.hosts[index].process.as_ref().is_none_or(|process| process.main.is_finished()) => {
                self.hosts[index].process = None;
                self.hosts[index].health = Health::Down { until: now + self.chance.millis(100, 1000) };
                return;
            }
            Health::Up | Health::Down { .. } | Health::Frozen { .. } | Health::Draining => return,
        }
        self.hosts[index].health = Health::Up;
    }

    /// Somebody sets the store's clock: another server took over, or a time server was wrong.
    fn set_clock(&self) {
        let skew = if self.chance.strikes(Kind::ClockForward, 400) {
            SKEW
        } else if self.chance.strikes(Kind::ClockBack, 800) {
            -SKEW
        } else {
            return;
        };
        self.clock.offset.fetch_add(skew, Ordering::SeqCst);
    }

    fn deliver(&mut self, parcel: Parcel) {
        let (to, request, reply) = match parcel {
            Parcel::Answer { reply, response } => return drop(reply.send(response)), // whoever asked may be gone
            Parcel::Request { to, request, reply } => (to, request, reply),
        };
        let host = &mut self.hosts[to];
        if let Health::Frozen { .. } = host.health {
            return host.inbox.push(Parcel::Request { to, request, reply });
        }
        let Some(process) = &host.process else { return };
        let Some(answering) = process.desks.call(opened(request)) else { return };
        process.runtime.spawn(serve(self.network.clone(), answering, reply));
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.chance.now() + time;
        while self.chance.now() < end {
            self.tick();
        }
    }

    /// Tells all workers to stop, and waits until they have.
    pub(super) fn drain(&mut self) {
        for host in self.hosts.iter().filter(|host| matches!(host.role, Role::Trainer | Role::Sampler)) {
            host.process.iter().for_each(|process| process.shutdown.cancel());
        }
        self.pass(2 * LEASE);
        for host in self.hosts.iter().filter(|host| matches!(host.role, Role::Trainer | Role::Sampler)) {
            if host.process.as_ref().is_some_and(|process| !process.main.is_finished()) {
                self.findings.wrong(format!("{} does not drain", host.name));
            }
        }
    }

    /// Ends all processes, and later looks for garbage.
    pub(super) fn close(&mut self) {
        const LATER: Duration = Duration::from_secs(2 * 60 * 60);
        self.hosts.clear();
        self.chance.pass(LATER);
        let store = Memory::open(&self.database, self.clock.clone(), self.policy.clone());
        let bucket = Bucket::new(self.bucket.clone(), None);
        self.alone(async {
            let turn = Turn { store: &store, own: self.chance.uuid(), shutdown: &CancellationToken::new() };
            bucket.probe().await.expect("it is calm");
            sweep::owed(&store, &bucket, crate::store::Sweep::Due).await.expect("it is calm");
            sweep::collect(&turn, &bucket).await.expect("it is calm");
            sweep::owed(&store, &bucket, crate::store::Sweep::Due).await.expect("it is calm");
        });
    }

    /// All jobs, by the key of their request.
    pub(super) fn jobs(&self) -> Vec<likeness_proto::v1::Job> {
        let store = Memory::open(&self.database, self.clock.clone(), self.policy.clone());
        self.alone(store.jobs(&tenant(), 1000)).expect("it is calm")
    }
}

async fn serve(
    network: Arc<Network>,
    answering: impl Future<Output = tonic::codegen::http::Response<tonic::body::Body>>,
    reply: Option<Reply>,
) {
    let Some(mut reply) = reply else { return drop(answering.await) };
    let response = tokio::select! {
        biased;
        // As a server does whose client has gone away.
        () = reply.closed() => return,
        response = answering => response,
    };
    network.answer(reply, response);
}
