//! What must hold whatever has happened. Real processes are held to the same, in `likeness_tests::Invariants`.

use std::collections::{BTreeMap, BTreeSet};

use futures::{FutureExt, TryStreamExt};
use likeness_proto::v1::{Job, JobState, SubjectProgress, SubjectState};
use likeness_proto::{ObjectRef, Sha256, lease_of};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::people::{Wish, has_ended};
use super::work;
use crate::audit::{Action, Chain, Entry};
use crate::store::memory::Ledger;

/// Objects by key.
pub(super) type Contents = BTreeMap<String, Vec<u8>>;

/// All that lies in the bucket.
pub(super) fn contents(bucket: &InMemory) -> Contents {
    let read = async {
        let listed: Vec<_> = bucket.list(None).try_collect().await?;
        let mut contents = Contents::new();
        for meta in listed {
            let bytes = bucket.get(&Path::from(meta.location.as_ref())).await?.bytes().await?;
            contents.insert(meta.location.to_string(), bytes.to_vec());
        }
        Ok::<_, object_store::Error>(contents)
    };
    read.now_or_never().expect("memory does not wait").expect("memory does not fail")
}

/// No object is visible without its commit, and all that is visible is there, whole; no result is applied twice; the audit
/// chain verifies.
pub(super) fn at_any_time(ledger: &Ledger, contents: &Contents) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, object) in &ledger.visible {
        match contents.get(key.as_str()) {
            Some(bytes) if is(object, bytes) => {}
            Some(_) => wrong.push(format!("object {key} is visible and holds other bytes than committed")),
            None => wrong.push(format!("object {key} is visible and not there")),
        }
        if lease_of(key).is_some_and(|lease| !ledger.published.contains_key(&lease.task)) {
            wrong.push(format!("object {key} is visible without its commit"));
        }
    }
    wrong.extend(chain(ledger));
    let twice = ledger.published.iter().filter(|(_, count)| **count > 1);
    wrong.extend(twice.map(|(task, count)| format!("the result of task {task} was applied {count} times")));
    wrong
}

/// The audit chain verifies, and tells of every job once.
fn chain(ledger: &Ledger) -> Vec<String> {
    let mut chain = Chain::new(None);
    let walked = ledger.audit.iter().try_for_each(|entry| chain.follow(entry));
    let mut wrong: Vec<_> = walked.err().into_iter().map(|broken| broken.to_string()).collect();
    let of = |entry: &&Entry| Action::of(entry.action) == Some(Action::JobSubmitted);
    let mut jobs: Vec<_> = ledger.audit.iter().filter(of).map(|entry| *entry.target.as_bytes()).collect();
    let all = jobs.len();
    jobs.sort_unstable();
    jobs.dedup();
    if jobs.len() != all {
        wrong.push("the audit log tells twice of a job".to_owned());
    }
    wrong
}

fn is(object: &ObjectRef, bytes: &[u8]) -> bool {
    object.size == bytes.len() as u64 && object.sha256 == Sha256::of(bytes)
}

/// Every accepted job has ended, as it must; no avatar is lost or duplicated.
pub(super) fn at_the_end(wish: &Wish, now: &Job, contents: &Contents, may_fail: bool) -> Vec<String> {
    let mut wrong = wish.wrong.clone();
    if !has_ended(now) {
        wrong.push(format!("job {} was accepted and has not ended: {:?}", now.id, now.state()));
    }
    let allowed = match now.state() {
        JobState::Succeeded => true,
        JobState::Cancelled => wish.cancelled,
        JobState::Failed | JobState::PartlyFailed => may_fail || wish.forgotten,
        JobState::Queued | JobState::Running | JobState::Unspecified => false,
    };
    if !allowed {
        wrong.push(format!("job {} ended as {:?}: {:?}", now.id, now.state(), errors(now)));
    }
    for subject in &now.subjects {
        wrong.extend(avatars(wish, now, subject, contents));
    }
    wrong
}

fn errors(job: &Job) -> Vec<String> {
    job.subjects.iter().filter_map(|subject| subject.error.as_ref()).map(|error| error.message.clone()).collect()
}

fn avatars(wish: &Wish, job: &Job, subject: &SubjectProgress, contents: &Contents) -> Vec<String> {
    let mut wrong = Vec::new();
    let asked =
        wish.request.render.as_ref().map_or(0, |render| render.prompts.iter().map(|prompt| prompt.seeds.len()).sum());
    let indices: BTreeSet<_> = subject.avatars.iter().map(|avatar| avatar.index as usize).collect();
    if indices.len() != subject.avatars.len() {
        wrong.push(format!("avatars of {} in job {} are duplicated", subject.subject, job.id));
    }
    let is_whole = subject.state() == SubjectState::Succeeded && subject.error.is_none();
    if is_whole && indices != (0..asked).collect() {
        wrong.push(format!("avatars of {} in job {} are lost: {indices:?} of {asked}", subject.subject, job.id));
    }
    let steps: BTreeSet<_> = subject.previews.iter().map(|preview| preview.step).collect();
    if steps.len() != subject.previews.len() || !subject.previews.is_sorted_by_key(|preview| preview.step) {
        wrong.push(format!("previews of {} in job {} are not each once and in order", subject.subject, job.id));
    }
    let name = &subject.subject;
    let previews = subject.previews.iter().map(|preview| (&preview.object, work::preview(&job.id, name, preview.step)));
    let drawn =
        subject.avatars.iter().map(|drawn| (&drawn.object, work::avatar(&job.id, name, &drawn.prompt, drawn.seed)));
    let learned = subject.embedding.iter().map(|learned| (&learned.object, work::embedding(&learned.job_id, name)));
    let sheet = subject.contact_sheet.as_ref().map(|_| (&subject.contact_sheet, work::sheet(&job.id, name)));
    for (object, want) in drawn.chain(previews).chain(learned).chain(sheet) {
        let key = object.as_ref().map(|object| object.key.clone()).unwrap_or_default();
        if contents.get(&key) != Some(&want) {
            wrong.push(format!("{key:?} of {name} in job {} does not hold what it should", job.id));
        }
    }
    wrong
}

/// Once garbage is collected, nothing is left but what people can see.
pub(super) fn nothing_else(ledger: &Ledger, contents: &Contents) -> Vec<String> {
    let visible: BTreeSet<_> = ledger.visible.keys().map(|key| key.as_str()).collect();
    // Tombstones stay.
    let left = contents.keys().filter(|key| !visible.contains(key.as_str()) && !key.starts_with("forgotten/"));
    left.map(|key| format!("{key} is left in the bucket, and nothing refers to it")).collect()
}
