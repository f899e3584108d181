use std::collections::BTreeSet;
use std::time::Duration;

use likeness_proto::{Fence, Incarnation, ModelFacts, RenderSpec, Specs, TaskId, TaskKind, TrainSpec, v1};
use proptest::prelude::*;

use super::plan::RENDER_CHUNK;
use super::*;
use crate::clock::Timestamp;

const ATTEMPTS: u32 = 3;
const LEASE: Duration = Duration::from_millis(100);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn fence(number: u64) -> Fence {
    Fence::new(number).unwrap()
}

/// A course as planning makes it: maybe a training, some renders, and the contact sheet.
fn course(trains: bool, renders: usize) -> Course {
    let train = trains.then_some((TaskKind::Train, TaskState::Ready));
    let render = if trains { TaskState::Waiting } else { TaskState::Ready };
    let renders = std::iter::repeat_n((TaskKind::Render, render), renders);
    let kinds = train.into_iter().chain(renders).chain([(TaskKind::Assemble, TaskState::Waiting)]);
    let task = |(kind, state)| Task { id: TaskId::new(), kind, state, grants: 0, strikes: 0 };
    Course { tasks: kinds.map(task).collect(), attempts: ATTEMPTS }
}

impl Course {
    fn grant(&mut self, index: usize, holder: Incarnation, now: Timestamp) -> Report {
        let id = self.tasks[index].id;
        self.apply(now, id, Event::Granted(Lease { holder, until: now + LEASE })).unwrap();
        Report { holder, fence: self.tasks[index].fence().unwrap() }
    }

    fn finish(&mut self, index: usize, holder: Incarnation) -> Vec<Effect> {
        let by = self.grant(index, holder, at(0));
        self.apply(at(1), self.tasks[index].id, Event::Finished(by)).unwrap()
    }

    fn states(&self) -> Vec<TaskState> {
        self.tasks.iter().map(|task| task.state).collect()
    }
}

#[test]
fn a_course_goes_from_training_to_the_contact_sheet() {
    let (mut course, worker) = (course(true, 2), Incarnation::new());
    let [train, first, second, assemble] = [0, 1, 2, 3].map(|index| course.tasks[index].id);
    assert_eq!(course.state(), SubjectState::Queued);

    let effects = course.finish(0, worker);
    let woken = [first, second].into_iter().flat_map(|id| [Effect::Save(id), Effect::Wake(id)]);
    let want: Vec<_> = [Effect::Save(train), Effect::Publish(train)].into_iter().chain(woken).collect();
    assert_eq!(effects, want, "its renders become ready in the same breath");
    assert_eq!(course.state(), SubjectState::Rendering);

    assert_eq!(course.finish(1, worker), [Effect::Save(first), Effect::Publish(first)]);
    let want = [Effect::Save(second), Effect::Publish(second), Effect::Save(assemble), Effect::Wake(assemble)];
    assert_eq!(course.finish(2, worker), want);
    assert_eq!(course.state(), SubjectState::Assembling);

    let want = [Effect::Save(assemble), Effect::Publish(assemble), Effect::Ended(SubjectState::Succeeded)];
    assert_eq!(course.finish(3, worker), want);
}

#[test]
fn a_result_is_published_once_and_its_repetition_is_answered_the_same() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let by = course.grant(0, worker, at(0));
    let id = course.tasks[0].id;
    assert!(course.apply(at(1), id, Event::Finished(by)).unwrap().contains(&Effect::Publish(id)));
    assert_eq!(course.apply(at(2), id, Event::Finished(by)), Ok(vec![]));
}

#[test]
fn a_lapsed_lease_is_granted_again_under_a_higher_fence() {
    let (mut course, [slow, next]) = (course(true, 1), [Incarnation::new(), Incarnation::new()]);
    let id = course.tasks[0].id;
    let old = course.grant(0, slow, at(0));
    assert_eq!(course.apply(at(99), id, Event::Lapsed), Err(Refused::Untimely), "it is not over yet");
    assert_eq!(course.apply(at(100), id, Event::Lapsed), Ok(vec![Effect::Save(id), Effect::Wake(id)]));
    let new = course.grant(0, next, at(100));
    assert!(new.fence > old.fence);
    for event in [Event::Finished(old), Event::Released(old), Event::Failed { by: old, retry: false }] {
        assert_eq!(course.apply(at(101), id, event), Err(Refused::Stale));
    }
    assert!(course.apply(at(101), id, Event::Finished(new)).is_ok());
}

#[test]
fn a_renewal_prolongs_the_lease() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let id = course.tasks[0].id;
    let by = course.grant(0, worker, at(0));
    course.apply(at(90), id, Event::Renewed { by, until: at(190), further: false }).unwrap();
    assert_eq!(course.apply(at(150), id, Event::Lapsed), Err(Refused::Untimely));
}

#[test]
fn nobody_else_speaks_under_a_holders_fence() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let by = Report { holder: Incarnation::new(), ..course.grant(0, worker, at(0)) };
    assert_eq!(course.apply(at(1), course.tasks[0].id, Event::Finished(by)), Err(Refused::Stale));
}

#[test]
fn a_task_that_loses_every_worker_is_dead_and_ends_its_subject() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let id = course.tasks[0].id;
    for attempt in 1..=ATTEMPTS {
        assert_eq!(course.tasks[0].attempt(), attempt);
        course.grant(0, worker, at(0));
        course.apply(at(100), id, Event::Lapsed).unwrap();
    }
    assert_eq!(course.states(), [TaskState::Dead, TaskState::Cancelled, TaskState::Cancelled]);
    assert_eq!(course.state(), SubjectState::Failed);
}

#[test]
fn a_checkpoint_forgives_the_strikes_before_it() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let id = course.tasks[0].id;
    for _ in 0..3 * ATTEMPTS {
        let by = course.grant(0, worker, at(0));
        course.apply(at(1), id, Event::Renewed { by, until: at(100), further: true }).unwrap();
        course.apply(at(100), id, Event::Lapsed).unwrap();
    }
    assert_eq!((course.tasks[0].state, course.tasks[0].strikes), (TaskState::Ready, 1));
}

#[test]
fn a_failure_that_another_try_cannot_help_ends_the_subject_at_once() {
    let (mut course, worker) = (course(true, 2), Incarnation::new());
    let by = course.grant(0, worker, at(0));
    let effects = course.apply(at(1), course.tasks[0].id, Event::Failed { by, retry: false }).unwrap();
    assert_eq!(effects.last(), Some(&Effect::Ended(SubjectState::Failed)));
    assert_eq!(course.tasks[0].state, TaskState::Failed);
}

#[test]
fn a_drain_counts_no_try() {
    let (mut course, worker) = (course(false, 1), Incarnation::new());
    for _ in 0..2 * ATTEMPTS {
        let by = course.grant(0, worker, at(0));
        course.apply(at(1), course.tasks[0].id, Event::Released(by)).unwrap();
    }
    assert_eq!((course.tasks[0].state, course.tasks[0].attempt()), (TaskState::Ready, 1));
}

#[test]
fn a_process_that_is_gone_loses_its_leases_before_they_lapse() {
    let (mut course, [gone, other]) = (course(false, 1), [Incarnation::new(), Incarnation::new()]);
    let id = course.tasks[0].id;
    course.grant(0, gone, at(0));
    assert_eq!(course.apply(at(1), id, Event::Abandoned(other)), Err(Refused::Untimely));
    assert!(course.apply(at(1), id, Event::Abandoned(gone)).unwrap().contains(&Effect::Wake(id)));
}

#[test]
fn a_cancelled_subject_keeps_what_is_done_and_tells_its_workers_to_stop() {
    let (mut course, worker) = (course(true, 2), Incarnation::new());
    course.finish(0, worker);
    let by = course.grant(1, worker, at(0));
    assert_eq!(course.cancel(at(1)).last(), Some(&Effect::Ended(SubjectState::Cancelled)));
    assert_eq!(course.tasks[0].state, TaskState::Done);
    let id = course.tasks[1].id;
    let renewal = Event::Renewed { by, until: at(200), further: false };
    assert_eq!(course.apply(at(2), id, renewal), Err(Refused::Cancelled));
    assert_eq!(course.apply(at(2), id, Event::Finished(by)), Err(Refused::Cancelled));
    assert_eq!(course.cancel(at(3)), []);
}

/// A course in training, and its preview of each of so many steps; the last ones are ready, unless they were begun.
fn previewed(course: &mut Course, previews: usize) -> Vec<TaskId> {
    let ids: Vec<_> = (0..previews).map(|_| TaskId::new()).collect();
    for id in &ids {
        assert!(course.wants_preview(16));
        assert_eq!(course.preview(at(0), *id).last(), Some(&Effect::Wake(*id)));
    }
    ids
}

#[test]
fn a_newer_preview_takes_the_place_of_one_that_nobody_is_at() {
    use TaskState::{Cancelled, Leased, Ready};
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    course.grant(0, worker, at(0));
    previewed(&mut course, 1);
    let by = course.grant(3, worker, at(0));
    previewed(&mut course, 3);
    let states = course.states()[3..].to_vec();
    assert!(matches!(states[..], [Leased(_), Cancelled, Cancelled, Ready]), "{states:?}");
    course.apply(at(1), course.tasks[3].id, Event::Released(by)).unwrap();
    assert_eq!(course.states()[3..], [Cancelled, Cancelled, Cancelled, Ready], "nobody begins it again");
    assert!(!course.wants_preview(4), "there were as many as there may be");
}

#[test]
fn a_preview_that_fails_fails_nothing() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    course.grant(0, worker, at(0));
    let ids = previewed(&mut course, 1);
    for want in [TaskState::Ready, TaskState::Dead] {
        let by = course.grant(3, worker, at(0));
        let effects = course.apply(at(1), ids[0], Event::Failed { by, retry: true }).unwrap();
        assert_eq!((course.tasks[3].state, course.state()), (want, SubjectState::Training));
        assert!(effects.iter().all(|effect| matches!(effect, Effect::Save(id) | Effect::Wake(id) if *id == ids[0])));
    }
}

#[test]
fn nothing_waits_for_a_preview_and_its_end_is_the_subjects() {
    let (mut course, worker) = (course(true, 1), Incarnation::new());
    let by = course.grant(0, worker, at(0));
    previewed(&mut course, 1);
    let drawn = course.grant(3, worker, at(0));
    let waits = previewed(&mut course, 1);
    let effects = course.apply(at(1), course.tasks[0].id, Event::Finished(by)).unwrap();
    assert!(effects.contains(&Effect::Save(waits[0])));
    assert_eq!(course.tasks[4].state, TaskState::Cancelled, "the avatars themselves are next");
    assert!(matches!(course.tasks[3].state, TaskState::Leased(_)), "it is drawn to its end");
    course.finish(1, worker);
    let effects = course.finish(2, worker);
    assert_eq!(effects.last(), Some(&Effect::Ended(SubjectState::Succeeded)));
    assert_eq!(course.apply(at(2), course.tasks[3].id, Event::Finished(drawn)), Err(Refused::Cancelled));
}

#[test]
fn a_claim_serves_previews_last() {
    use TaskKind::{Assemble, Preview, Render, Train};
    assert_eq!(in_order(&[Preview, Train, Render, Assemble]), [Assemble, Render, Train, Preview]);
}

#[test]
fn a_preview_is_the_first_avatar() {
    let planned = preview(&specs(true, &[7, 8]).render, 50);
    let v1::grant::Work::Preview(work) = planned.work else { panic!("{planned:?}") };
    let shots = work.render.unwrap().shots;
    assert_eq!((work.step, planned.shots, planned.kind), (50, 0, TaskKind::Preview));
    assert_eq!((shots.len(), shots[0].prompt.as_str(), shots[0].seed), (1, "{subject} at sea", 7));
}

#[test]
fn a_job_is_what_its_subjects_are() {
    use SubjectState::{Assembling, Cancelled, Failed, Queued, Rendering, Succeeded, Training};
    let table: &[(&[SubjectState], JobState)] = &[
        (&[Queued, Queued], JobState::Queued),
        (&[Queued, Training], JobState::Running),
        (&[Queued, Succeeded], JobState::Running),
        (&[Failed, Rendering], JobState::Running),
        (&[Cancelled, Assembling], JobState::Running),
        (&[Succeeded, Succeeded], JobState::Succeeded),
        (&[Succeeded, Failed], JobState::PartlyFailed),
        (&[Failed, Failed], JobState::Failed),
        (&[Succeeded, Cancelled], JobState::Cancelled),
        (&[Failed, Cancelled], JobState::Cancelled),
    ];
    for (subjects, want) in table {
        assert_eq!(JobState::of(subjects), *want, "{subjects:?}");
    }
}

#[test]
fn states_survive_their_numbers() {
    for number in 1..=7 {
        assert_eq!(SubjectState::decode(number).unwrap().encode(), number);
    }
    for number in 1..=6 {
        assert_eq!(JobState::decode(number).unwrap().encode(), number);
    }
    assert_eq!((SubjectState::decode(0), JobState::decode(7)), (None, None));
}

const MODEL: ModelFacts = ModelFacts { native_size: 64, factor: 8 };

fn specs(trains: bool, seeds: &[u64]) -> Specs {
    let prompt = |text: &str| v1::Prompt { text: text.into(), seeds: seeds.to_vec() };
    let prompts = vec![prompt("{subject} at sea"), prompt("{subject} in snow")];
    let render = v1::RenderSpec { prompts, ..Default::default() };
    Specs {
        train: trains.then(|| TrainSpec::resolve(v1::TrainSpec::default(), &MODEL).unwrap()),
        render: RenderSpec::resolve(render, &MODEL).unwrap(),
    }
}

const SOURCE: Source<'static> = Source { photos: &[], init: "person", token: "<ada>" };

#[test]
fn a_plan_draws_every_avatar_once_in_order() {
    let planned = plan(&specs(true, &[1, 2, 3]), SOURCE);
    let kinds: Vec<_> = planned.iter().map(|task| (task.kind, task.ready)).collect();
    use TaskKind::{Assemble, Render, Train};
    assert_eq!(kinds, [(Train, true), (Render, false), (Render, false), (Assemble, false)]);
    let shots = planned.iter().filter_map(|task| match &task.work {
        v1::grant::Work::Render(work) => Some(work.shots.clone()),
        v1::grant::Work::Train(_) | v1::grant::Work::Assemble(_) | v1::grant::Work::Preview(_) => None,
    });
    let chunks: Vec<_> = shots.collect();
    assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [RENDER_CHUNK, 2]);
    let drawn: Vec<_> = chunks.concat().into_iter().map(|shot| (shot.index, shot.prompt, shot.seed)).collect();
    let want = ["{subject} at sea", "{subject} in snow"].into_iter().flat_map(|prompt| [1, 2, 3].map(|s| (prompt, s)));
    let want: Vec<_> =
        want.enumerate().map(|(index, (prompt, seed))| (index as u32, prompt.to_owned(), seed)).collect();
    assert_eq!(drawn, want);
}

#[test]
fn a_plan_without_training_begins_with_rendering() {
    let planned = plan(&specs(false, &[7]), SOURCE);
    let kinds: Vec<_> = planned.iter().map(|task| (task.kind, task.ready)).collect();
    assert_eq!(kinds, [(TaskKind::Render, true), (TaskKind::Assemble, false)]);
}

#[test]
fn photos_smaller_than_training_looks_at_are_named() {
    let photo = |name: &str, width, height| v1::Photo { file_name: name.into(), width, height, ..Default::default() };
    let photos = [photo("fits.png", 64, 64), photo("low.png", 640, 63)];
    let warnings = small_photos(&specs(true, &[1]), "ada", &photos);
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].code(), warnings[0].subject.as_str()), (v1::WarningCode::SmallPhoto, "ada"));
    assert!(warnings[0].message.contains("low.png") && warnings[0].message.contains("640x63"));
    assert!(small_photos(&specs(false, &[1]), "ada", &photos).is_empty(), "nothing is trained");
}

/// What a random schedule does to a course; `fence` is how many grants old the report is.
#[derive(Clone, Debug)]
enum Act {
    Grant(usize),
    Renew { task: usize, age: u64, further: bool },
    Finish { task: usize, age: u64 },
    Fail { task: usize, age: u64, retry: bool },
    Release { task: usize, age: u64 },
    Lapse(usize),
    Wait(i64),
    Cancel,
    Preview,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let task = || 0..7_usize;
    let age = || prop_oneof![4 => Just(0_u64), 1 => 1..3_u64];
    let act = prop_oneof![
        6 => task().prop_map(Act::Grant),
        2 => (task(), age(), any::<bool>()).prop_map(|(task, age, further)| Act::Renew { task, age, further }),
        6 => (task(), age()).prop_map(|(task, age)| Act::Finish { task, age }),
        1 => (task(), age(), prop::bool::weighted(0.8)).prop_map(|(task, age, retry)| Act::Fail { task, age, retry }),
        1 => (task(), age()).prop_map(|(task, age)| Act::Release { task, age }),
        2 => task().prop_map(Act::Lapse),
        2 => (1..150_i64).prop_map(Act::Wait),
        2 => Just(Act::Preview),
        1 => prop::bool::weighted(0.2).prop_map(|cancel| if cancel { Act::Cancel } else { Act::Wait(1) }),
    ];
    proptest::collection::vec(act, 0..80)
}

/// Performs an act. Answers the effects, and whether the act spoke under a fence that is not the current one.
fn perform(
    course: &mut Course,
    now: &mut Timestamp,
    worker: Incarnation,
    act: &Act,
) -> (Result<Vec<Effect>, Refused>, bool) {
    let count = course.tasks.len();
    let by = |course: &Course, task: usize, age: u64| {
        let grants = course.tasks[task % count].grants;
        let number = grants.saturating_sub(age).max(1);
        (Report { holder: worker, fence: fence(number) }, number != grants)
    };
    let (task, event, stale) = match *act {
        Act::Grant(task) => (task, Event::Granted(Lease { holder: worker, until: *now + LEASE }), false),
        Act::Renew { task, age, further } => {
            let (by, stale) = by(course, task, age);
            (task, Event::Renewed { by, until: *now + LEASE, further }, stale)
        }
        Act::Finish { task, age } => {
            let (by, stale) = by(course, task, age);
            (task, Event::Finished(by), stale)
        }
        Act::Fail { task, age, retry } => {
            let (by, stale) = by(course, task, age);
            (task, Event::Failed { by, retry }, stale)
        }
        Act::Release { task, age } => {
            let (by, stale) = by(course, task, age);
            (task, Event::Released(by), stale)
        }
        Act::Lapse(task) => (task, Event::Lapsed, false),
        Act::Wait(millis) => {
            *now = *now + Duration::from_millis(millis as u64);
            return (Ok(vec![]), false);
        }
        Act::Cancel => return (Ok(course.cancel(*now)), false),
        Act::Preview if course.wants_preview(4) => return (Ok(course.preview(*now, TaskId::new())), false),
        Act::Preview => return (Ok(vec![]), false),
    };
    (course.apply(*now, course.tasks[task % count].id, event), stale)
}

/// Lets a willing worker do whatever is left, but for previews: nothing may wait for them.
fn run_out(course: &mut Course, worker: Incarnation, now: Timestamp) {
    for _ in 0..course.tasks.len() {
        for index in 0..course.tasks.len() {
            if course.tasks[index].kind == TaskKind::Preview {
                continue;
            }
            let id = course.tasks[index].id;
            if course.tasks[index].state == TaskState::Ready {
                course.grant(index, worker, now);
            }
            if let (TaskState::Leased(lease), Some(fence)) = (course.tasks[index].state, course.tasks[index].fence()) {
                let by = Report { holder: lease.holder, fence };
                course.apply(now, id, Event::Finished(by)).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_course_stays_sound_and_ends(trains: bool, renders in 1..4_usize, acts in acts()) {
        let (mut course, worker) = (course(trains, renders), Incarnation::new());
        let (mut now, mut published) = (at(0), BTreeSet::new());
        for act in &acts {
            let before = course.clone();
            let (outcome, stale) = perform(&mut course, &mut now, worker, act);
            if outcome.is_err() || stale {
                prop_assert_eq!(&before, &course, "a refused or stale report changes nothing: {:?}", act);
            }
            for effect in outcome.unwrap_or_default() {
                if let Effect::Publish(id) = effect {
                    prop_assert!(published.insert(id), "a result is recorded once");
                }
            }
            for (old, new) in before.tasks.iter().zip(&course.tasks) {
                prop_assert!(new.grants >= old.grants, "fences only grow");
                prop_assert!(!old.state.ended() || new.state == old.state, "what has ended stays as it is");
                prop_assert!(new.strikes <= ATTEMPTS);
            }
            prop_assert!(!before.state().ended() || course.state() == before.state(), "the end is the end");
        }

        run_out(&mut course, worker, now);
        prop_assert!(course.state().ended(), "every course ends: {:?}", course);
        prop_assert!(course.tasks.iter().all(|task| task.state.ended()));
        let mut needed = course.tasks.iter().filter(|task| task.kind != TaskKind::Preview);
        let done = needed.all(|task| task.state == TaskState::Done);
        prop_assert_eq!(course.state() == SubjectState::Succeeded, done);
    }
}
