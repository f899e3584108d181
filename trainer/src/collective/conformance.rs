//! What every implementation must do. A further one is added to [`ANYWHERE`], or, where it needs GPUs, as [`ON_GPUS`] is.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::{iter, thread};

use likeness_proto::{ErrorCode, Secret};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::*;

struct Backend {
    name: &'static str,
    /// Forms a group of so many ranks, whose calls give up after so long.
    form: fn(usize, Duration) -> Group,
    /// Ranks that there can be here.
    most: fn() -> usize,
    /// A deadline that is waited for, and within which a group can form.
    short: Duration,
    /// Whether a rank that dies in another's sum is named, and at once; or only missed, at the deadline.
    names_the_dead: bool,
}

const ANYWHERE: [Backend; 2] = [
    Backend { name: "local", form: locals, most: || 4, short: SHORT, names_the_dead: true },
    Backend { name: "grpc", form: streams, most: || 4, short: SHORT, names_the_dead: true },
];
#[cfg(feature = "nccl")]
const ON_GPUS: Backend = Backend {
    name: "nccl",
    form: gpus::form,
    most: || gpus::devices().len().min(4),
    short: Duration::from_secs(10),
    names_the_dead: false,
};
/// No call of these tests comes near it.
const AMPLE: Duration = Duration::from_secs(60);
/// A deadline that is waited for.
const SHORT: Duration = Duration::from_millis(150);

/// Each as a test of its own, for what runs anywhere and for what needs GPUs.
macro_rules! of_every_backend {
    ($($property:ident)*) => {
        $(
            #[test]
            fn $property() {
                ANYWHERE.iter().for_each(properties::$property);
            }
        )*
        #[cfg(feature = "nccl")]
        mod on_gpus {
            $(
                #[test]
                #[ignore = "needs GPUs: deploy/gpu-smoke.sh runs it"]
                fn $property() {
                    super::properties::$property(&super::ON_GPUS);
                }
            )*
        }
    };
}

of_every_backend! {
    ranks_are_counted
    sums_come_to_all_whatever_their_length
    numbers_that_are_none_come_through
    rank_0_tells_and_gathers
    many_calls_after_one_another_keep_apart
    a_rank_that_dies_is_missed_by_all_others_and_for_good
    a_rank_that_never_comes_is_missed_at_the_deadline
    two_ranks_that_are_late_are_both_named
    a_rank_that_dies_while_others_wait_frees_them_at_once
}

impl Backend {
    fn most_here(&self) -> usize {
        let most = (self.most)();
        assert!(most > 0, "{} finds no GPU here", self.name);
        most
    }

    /// Of every size that there can be here.
    fn groups(&self, limit: Duration) -> impl Iterator<Item = (String, Group)> {
        (1..=self.most_here()).map(move |size| (format!("{}, {size} ranks", self.name), (self.form)(size, limit)))
    }

    /// Of so many ranks; none, and that is told, where there cannot be so many here.
    fn group(&self, size: usize, limit: Duration) -> Option<Group> {
        let most = self.most_here();
        if most < size {
            eprintln!("NOT TESTED: {} of {size} ranks, for want of GPUs: there are {most}", self.name);
            return None;
        }
        Some((self.form)(size, limit))
    }
}

struct Group {
    ranks: Vec<Box<dyn Collective>>,
    _runtime: Option<Runtime>,
}

fn locals(size: usize, limit: Duration) -> Group {
    let ranks = local(size, limit).into_iter().map(|rank| Box::new(rank) as Box<dyn Collective>).collect();
    Group { ranks, _runtime: None }
}

fn terms(size: usize) -> Terms {
    Terms { software: "0.1.0".to_owned(), base_model: "sha256:aa".to_owned(), size }
}

fn token() -> Secret {
    Secret::new("secret").unwrap()
}

/// Serves an assembly whose first rank is this process'; where it listens.
fn leader(runtime: &Runtime, size: usize, limit: Duration) -> (Assembly, Endpoint) {
    let assembly = Assembly::new(terms(size), 1, limit);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    runtime.spawn(serve(listener, assembly.clone(), &Admission::Token(token()), CancellationToken::new()));
    (assembly, address)
}

fn streams(size: usize, limit: Duration) -> Group {
    let runtime = Runtime::new().unwrap();
    let (assembly, leader) = leader(&runtime, size, limit);
    let join = |rank| {
        let leader = leader.clone();
        runtime.spawn(async move { Remote::join(leader, Some(&token()), &terms(size), rank, limit).await.unwrap() })
    };
    let joining: Vec<_> = (1..size).map(join).collect();
    let own = assembly.form(AMPLE).unwrap().pop().unwrap();
    let others = joining.into_iter().map(|rank| Box::new(runtime.block_on(rank).unwrap()) as Box<dyn Collective>);
    Group { ranks: iter::once(Box::new(own) as Box<dyn Collective>).chain(others).collect(), _runtime: Some(runtime) }
}

impl Group {
    /// Every rank does `act` in a thread of its own; what each got.
    fn each<T: Send>(&mut self, act: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let act = &act;
            let threads: Vec<_> = self.ranks.iter_mut().map(|rank| scope.spawn(move || act(&mut **rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// Whose sums over ranks are exact where `scale` is 1, in whatever order they are made.
fn numbers(rank: usize, length: usize, scale: f32) -> Vec<f32> {
    (0..length).map(|i| ((i * 7919 + rank * 104_729) % 1000) as f32 * scale).collect()
}

/// Holds sums of `length` such numbers to those that are made in the order of the ranks, bit by bit.
#[track_caller]
fn sums_in_order(name: &str, group: &mut Group, length: usize, scale: f32) {
    let mut want = numbers(0, length, scale);
    for rank in 1..group.ranks.len() {
        want.iter_mut().zip(numbers(rank, length, scale)).for_each(|(sum, value)| *sum += value);
    }
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let sums = group.each(|rank| {
        let mut values = numbers(rank.rank(), length, scale);
        rank.all_reduce_sum(&mut values).map(|()| values)
    });
    assert!(sums.iter().all(|sum| bits(sum.as_ref().unwrap()) == bits(&want)), "{name}, {length} numbers");
}

/// Who is lost, as `rank` tells it.
fn lost(error: CollectiveError) -> (usize, Vec<usize>) {
    match error {
        CollectiveError::PeerLost { rank, lost, .. } => (rank, lost),
        CollectiveError::Mismatch { .. } => panic!("{error}"),
    }
}

mod properties {
    use super::*;

    pub(super) fn ranks_are_counted(backend: &Backend) {
        for (name, mut group) in backend.groups(AMPLE) {
            let size = group.ranks.len();
            let told = group.each(|rank| (rank.rank(), rank.size()));
            assert_eq!(told, (0..size).map(|rank| (rank, size)).collect::<Vec<_>>(), "{name}");
        }
    }

    pub(super) fn sums_come_to_all_whatever_their_length(backend: &Backend) {
        for (name, mut group) in backend.groups(AMPLE) {
            for length in [0, 1, 5, 16_384, 786_432] {
                sums_in_order(&name, &mut group, length, 1.0);
            }
        }
    }

    pub(super) fn numbers_that_are_none_come_through(backend: &Backend) {
        for (name, mut group) in backend.groups(AMPLE) {
            let sums = group.each(|rank| {
                let mut values = [f32::NAN, f32::INFINITY, -0.0, f32::MIN_POSITIVE / 2.0];
                rank.all_reduce_sum(&mut values).map(|()| values)
            });
            for sum in sums {
                let [nan, infinite, zero, small] = sum.unwrap();
                assert!(nan.is_nan() && infinite == f32::INFINITY && zero == 0.0 && small > 0.0, "{name}");
            }
        }
    }

    pub(super) fn rank_0_tells_and_gathers(backend: &Backend) {
        for (name, mut group) in backend.groups(AMPLE) {
            let size = group.ranks.len();
            for length in [0, 3, 3 << 20] {
                let told = group.each(|rank| {
                    let mut bytes = if rank.rank() == 0 { vec![7; length] } else { vec![1, 2] };
                    rank.broadcast(&mut bytes).map(|()| bytes)
                });
                assert!(told.iter().all(|bytes| *bytes.as_ref().unwrap() == vec![7; length]), "{name}, {length} bytes");

                let mut gathered =
                    group.each(|rank| rank.gather(vec![rank.rank() as u8; length + rank.rank()])).into_iter();
                let want: Vec<_> = (0..size).map(|rank| vec![rank as u8; length + rank]).collect();
                assert_eq!(gathered.next().unwrap().unwrap(), want, "{name}, {length} bytes");
                assert!(gathered.all(|others| others.unwrap().is_empty()), "{name}, {length} bytes");
            }
        }
    }

    pub(super) fn many_calls_after_one_another_keep_apart(backend: &Backend) {
        for (name, mut group) in backend.groups(AMPLE) {
            let size = group.ranks.len();
            let sums = group.each(|rank| {
                (0..50).all(|round| {
                    let mut values = [round as f32, 1.0];
                    rank.all_reduce_sum(&mut values).unwrap();
                    rank.barrier().unwrap();
                    values == [(round * size) as f32, size as f32]
                })
            });
            assert!(sums.into_iter().all(|right| right), "{name}");
        }
    }

    pub(super) fn a_rank_that_dies_is_missed_by_all_others_and_for_good(backend: &Backend) {
        let (name, exact) = (backend.name, backend.names_the_dead);
        let limit = if exact { AMPLE } else { backend.short };
        for dead in [0, 1, 3] {
            let Some(mut group) = backend.group(4, limit) else { return };
            group.each(|rank| rank.barrier().unwrap());
            drop(group.ranks.remove(dead));
            let began = Instant::now();
            for again in ["first", "again"] {
                for error in group.each(|rank| (rank.rank(), rank.all_reduce_sum(&mut [1.0]).unwrap_err())) {
                    let (rank, error) = error;
                    let (told_by, who) = lost(error.clone());
                    assert_eq!(told_by, rank, "{name}, {again}: {error}");
                    assert!(who == [dead] || again == "again" || !exact && who.contains(&dead), "{name}: {error}");
                    assert!(error.to_string().contains("an all-reduce of 1 numbers"), "{name}: {error}");
                }
            }
            assert!(began.elapsed() < AMPLE / 2, "{name}");
        }
    }

    pub(super) fn a_rank_that_never_comes_is_missed_at_the_deadline(backend: &Backend) {
        let name = backend.name;
        for absent in [0, 2] {
            let Some(mut group) = backend.group(3, backend.short) else { return };
            let began = Instant::now();
            let errors = group.each(|rank| (rank.rank() != absent).then(|| rank.barrier().unwrap_err()));
            for error in errors.into_iter().flatten() {
                assert_eq!(lost(error.clone()).1, [absent], "{name}: {error}");
                let text = error.to_string();
                assert!(text.contains("a barrier") && text.contains("within"), "{name}: {text}");
            }
            assert!(began.elapsed() >= backend.short, "{name}: not before the deadline");

            let late = group.ranks[absent].barrier().unwrap_err();
            assert_eq!(lost(late).0, absent, "{name}: the late one hears of it too");
        }
    }

    pub(super) fn two_ranks_that_are_late_are_both_named(backend: &Backend) {
        let name = backend.name;
        let Some(mut group) = backend.group(4, backend.short) else { return };
        let errors = group.each(|rank| rank.rank().is_multiple_of(2).then(|| rank.barrier().unwrap_err()));
        for error in errors.into_iter().flatten() {
            assert_eq!(lost(error.clone()).1, [1, 3], "{name}");
            assert!(error.to_string().contains("for ranks 1, 3"), "{name}: {error}");
        }
    }

    pub(super) fn a_rank_that_dies_while_others_wait_frees_them_at_once(backend: &Backend) {
        let name = backend.name;
        let Some(mut group) = backend.group(3, AMPLE) else { return };
        let doomed = group.ranks.pop().unwrap();
        let (ready, all): (Sender<()>, Receiver<()>) = channel();
        let began = Instant::now();
        thread::scope(|scope| {
            for rank in &mut group.ranks {
                let ready = ready.clone();
                scope.spawn(move || {
                    ready.send(()).unwrap();
                    let error = rank.barrier().unwrap_err();
                    assert_eq!(lost(error.clone()).1, [2], "{name}: {error}");
                });
            }
            all.iter().take(2).for_each(drop);
            drop(doomed);
        });
        assert!(began.elapsed() < AMPLE / 2, "{name}");
    }
}

/// What follows from meeting in one hub, which adds and compares what comes; NCCL does neither.
mod in_a_hub {
    use super::*;

    #[test]
    fn sums_are_made_in_the_order_of_the_ranks() {
        for (name, mut group) in ANYWHERE.iter().flat_map(|backend| backend.groups(AMPLE)) {
            sums_in_order(&name, &mut group, 16_384, 0.37);
        }
    }

    #[test]
    fn different_calls_are_refused_and_both_are_named() {
        for Backend { name, form, .. } in ANYWHERE {
            let mut group = form(3, AMPLE);
            let errors = group.each(|rank| rank.all_reduce_sum(&mut vec![0.0; if rank.rank() == 2 { 5 } else { 4 }]));
            for (rank, error) in errors.into_iter().enumerate() {
                let error = error.unwrap_err();
                assert!(
                    matches!(&error, CollectiveError::Mismatch { rank: told, .. } if *told == rank),
                    "{name}: {error}"
                );
                let text = error.to_string();
                let named =
                    ["an all-reduce of 4 numbers", "rank 2 in an all-reduce of 5", "rank 2 is in an all-reduce of 5"];
                assert!(
                    text.contains(named[0]) && named[1..].iter().any(|named| text.contains(named)),
                    "{name}: {text}"
                );
            }

            let mut group = form(2, AMPLE);
            let act = |rank: &mut dyn Collective| match rank.rank() {
                0 => rank.barrier(),
                _ => rank.all_reduce_sum(&mut [1.0]),
            };
            for error in group.each(act) {
                let text = error.unwrap_err().to_string();
                assert!(text.contains("a barrier") && text.contains("an all-reduce of 1 numbers"), "{name}: {text}");
            }
        }
    }
}

/// How ranks come to GPUs.
#[cfg(feature = "nccl")]
mod gpus {
    use super::*;

    pub(super) fn devices() -> Vec<Device> {
        (0..64).map_while(|number| Device::new_cuda(number).ok()).collect()
    }

    pub(super) fn form(size: usize, limit: Duration) -> Group {
        let start = |(end, device): (Local, Device)| {
            move || Box::new(Nccl::new(Box::new(end), &device, limit).unwrap()) as Box<dyn Collective>
        };
        let ranks: Vec<_> = local(size, limit).into_iter().zip(devices()).map(start).map(thread::spawn).collect();
        Group { ranks: ranks.into_iter().map(|rank| rank.join().unwrap()).collect(), _runtime: None }
    }

    #[test]
    #[ignore = "needs a GPU: deploy/gpu-smoke.sh runs it"]
    fn a_rank_that_never_comes_to_nccl_keeps_nobody_beyond_the_deadline() {
        let limit = Duration::from_secs(5);
        let mut ends = local(2, limit);
        let (mut absent, own) = (ends.pop().unwrap(), ends.pop().unwrap());
        let device = devices().into_iter().next().expect("there is no GPU here");
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| absent.broadcast(&mut Vec::new()).unwrap());
            let error = Nccl::new(Box::new(own), &device, limit).err().unwrap();
            assert_eq!(lost(error.clone()).1, [1], "{error}");
            assert!(error.to_string().contains("did not find all ranks within"), "{error}");
        });
        assert!((limit..2 * limit).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}

#[test]
fn who_differs_is_refused_with_both_values() {
    let runtime = Runtime::new().unwrap();
    let (_assembly, leader) = leader(&runtime, 3, AMPLE);
    let join = |token: &str, terms: Terms, rank| {
        let (leader, token) = (leader.clone(), Secret::new(token).unwrap());
        match runtime.block_on(Remote::join(leader, Some(&token), &terms, rank, AMPLE)) {
            Err(JoinError::Refused(refusal)) => (refusal.code, refusal.message),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("joined"),
        }
    };
    let cases = [
        (Terms { software: "0.9.9".to_owned(), ..terms(3) }, 1, ErrorCode::VersionMismatch, ["0.9.9", "0.1.0"]),
        (
            Terms { base_model: "sha256:bb".to_owned(), ..terms(3) },
            1,
            ErrorCode::ModelMismatch,
            ["sha256:bb", "sha256:aa"],
        ),
        (Terms { size: 4, ..terms(3) }, 1, ErrorCode::InvalidArgument, ["group size 4", "leader 3"]),
        (terms(3), 0, ErrorCode::InvalidArgument, ["rank 0", "1 to 2"]),
        (terms(3), 3, ErrorCode::InvalidArgument, ["rank 3", "1 to 2"]),
    ];
    for (terms, rank, code, named) in cases {
        let (told, message) = join("secret", terms, rank);
        assert_eq!(told, code, "{message}");
        assert!(named.iter().all(|named| message.contains(named)), "{message}");
    }
    assert_eq!(join("wrong", terms(3), 1).0, ErrorCode::Unauthenticated);
}

#[test]
fn a_group_waits_for_those_that_come_late_and_forms_again_after_a_loss() {
    let runtime = Runtime::new().unwrap();
    let (assembly, leader) = leader(&runtime, 3, AMPLE);
    let join = |rank| {
        let leader = leader.clone();
        runtime.spawn(async move { Remote::join(leader, Some(&token()), &terms(3), rank, AMPLE).await })
    };
    assert_eq!(assembly.form(Duration::ZERO).err(), Some(vec![1, 2]));
    let mut first = join(1);
    assert_eq!(wait_until_missing(&assembly, &[2]), vec![2]);
    let second = join(2);
    let mut own = assembly.form(AMPLE).unwrap().pop().unwrap();
    let (lost_one, survivor) =
        (runtime.block_on(&mut first).unwrap().unwrap(), runtime.block_on(second).unwrap().unwrap());

    // Rank 1 comes back as another process before anybody has noticed that the first is gone.
    let again = join(1);
    assert_eq!(lost(own.barrier().unwrap_err()).1, [1]);
    drop((own, lost_one, survivor));
    let last = join(2);
    let own = assembly.form(AMPLE).unwrap().pop().unwrap();
    let others = [again, last].map(|rank| Box::new(runtime.block_on(rank).unwrap().unwrap()) as Box<dyn Collective>);
    let ranks = iter::once(Box::new(own) as Box<dyn Collective>).chain(others).collect();
    let mut group = Group { ranks, _runtime: None };
    group.each(|rank| rank.barrier().unwrap());
}

/// Asks until just these ranks are missing.
fn wait_until_missing(assembly: &Assembly, ranks: &[usize]) -> Vec<usize> {
    let asked = iter::repeat_with(|| assembly.form(SHORT / 10).err().unwrap_or_default());
    asked.take(1000).find(|missing| missing == ranks).unwrap_or_default()
}
