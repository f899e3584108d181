//! Embeddings that were pulled, so that the renders of a subject pull its embedding once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use likeness_proto::Sha256;

/// Values by the digest of the bytes they were read from; the least recently used leaves first. Knows no tenants: who
/// may ask for a digest was settled when the task was granted.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    capacity: usize,
    /// The most recently used last. Few enough to be searched one by one.
    entries: Mutex<Vec<(Sha256, Arc<T>)>>,
}

impl<T> Cache<T> {
    /// Keeps at most `capacity` values; 0 keeps none.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::default() }
    }

    /// The value of this digest, if it is kept.
    pub(crate) fn get(&self, digest: &Sha256) -> Option<Arc<T>> {
        let mut entries = self.entries();
        let index = entries.iter().position(|(kept, _)| kept == digest)?;
        let entry = entries.remove(index);
        let value = Arc::clone(&entry.1);
        entries.push(entry);
        Some(value)
    }

    /// Keeps a value.
    pub(crate) fn put(&self, digest: Sha256, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut entries = self.entries();
        entries.retain(|(kept, _)| *kept != digest);
        entries.push((digest, Arc::clone(&value)));
        let surplus = entries.len().saturating_sub(self.capacity);
        entries.drain(..surplus);
        value
    }

    /// No panic can leave the list half changed.
    fn entries(&self) -> MutexGuard<'_, Vec<(Sha256, Arc<T>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Sha256 {
        Sha256::of(name.as_bytes())
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let cache = Cache::new(2);
        cache.put(digest("anna"), 1);
        cache.put(digest("ben"), 2);
        assert_eq!(cache.get(&digest("anna")).as_deref(), Some(&1));

        cache.put(digest("clara"), 3);

        assert_eq!(cache.get(&digest("ben")), None);
        assert_eq!(cache.get(&digest("anna")).as_deref(), Some(&1));
        assert_eq!(cache.get(&digest("clara")).as_deref(), Some(&3));
    }

    #[test]
    fn the_same_digest_is_kept_once() {
        let cache = Cache::new(2);
        cache.put(digest("anna"), 1);
        cache.put(digest("ben"), 2);
        cache.put(digest("ben"), 2);

        assert_eq!(cache.get(&digest("anna")).as_deref(), Some(&1));
    }

    #[test]
    fn without_capacity_nothing_is_kept() {
        let cache = Cache::new(0);

        assert_eq!(*cache.put(digest("anna"), 1), 1);
        assert_eq!(cache.get(&digest("anna")), None);
    }
}
