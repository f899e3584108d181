//! What was pulled or computed and will be wanted again: the renders of a subject pull its embedding once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by their keys; the least recently used leaves first. Knows no tenants: keys are digests of bytes, and who may ask for
/// one was settled when the task was granted.
#[derive(Debug)]
pub(crate) struct Cache<K, T> {
    capacity: usize,
    /// The most recently used last. Few enough to be searched one by one.
    entries: Mutex<Vec<(K, Arc<T>)>>,
}

impl<K: PartialEq, T> Cache<K, T> {
    /// Keeps at most `capacity` values; 0 keeps none.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::new(Vec::new()) }
    }

    /// The value of this key, if it is kept.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<T>> {
        let mut entries = self.entries();
        let index = entries.iter().position(|(kept, _)| kept == key)?;
        let entry = entries.remove(index);
        let value = Arc::clone(&entry.1);
        entries.push(entry);
        Some(value)
    }

    /// Keeps a value.
    pub(crate) fn put(&self, key: K, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut entries = self.entries();
        entries.retain(|(kept, _)| *kept != key);
        entries.push((key, Arc::clone(&value)));
        let surplus = entries.len().saturating_sub(self.capacity);
        entries.drain(..surplus);
        value
    }

    /// No panic can leave the list half changed.
    fn entries(&self) -> MutexGuard<'_, Vec<(K, Arc<T>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use likeness_proto::Sha256;

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
    fn the_same_key_is_kept_once() {
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
