//! Places that callers wait for, in the order in which they came; nobody's crowd keeps the others waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use likeness_proto::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places, of which a tenant has a few at most.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    most_of_one: usize,
    /// Of tenants that have places or wait for some.
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _own: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(all: usize, most_of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), most_of_one, tenants: Mutex::default() }
    }

    /// Waits for a place; first for one among the tenant's own, and only with that for one among all.
    pub(crate) async fn take(&self, tenant: &TenantId) -> Held {
        let never_closed = "the semaphores are never closed";
        let own = self.of(tenant).acquire_owned().await.expect(never_closed);
        let one = Arc::clone(&self.all).acquire_owned().await.expect(never_closed);
        Held { _own: own, _one: one }
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants();
        tenants.retain(|_, own| Arc::strong_count(own) > 1);
        let own = tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.most_of_one)));
        Arc::clone(own)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Semaphore>>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_tenant_s_crowd_leaves_room_for_others_and_is_forgotten_when_it_has_gone() {
        let places = Places::new(3, 2);
        let (crowd, other): (TenantId, TenantId) = ("crowd".parse().unwrap(), "other".parse().unwrap());
        let now = |tenant| places.take(tenant).now_or_never();
        let (first, second) = (now(&crowd).unwrap(), now(&crowd).unwrap());
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(places.take(&crowd))).collect();
        assert!(waiting.iter_mut().all(|place| place.now_or_never().is_none()));
        let third = now(&other).unwrap();
        assert!(now(&other).is_none(), "three is all there are");
        drop(first);
        let next = (&mut waiting[0]).now_or_never().unwrap();
        assert!((&mut waiting[1]).now_or_never().is_none());
        drop(third);
        assert!((&mut waiting[1]).now_or_never().is_none(), "the crowd has two already");
        assert!(now(&other).is_some());
        drop((second, waiting, next));
        let _last = now(&other).unwrap();
        assert_eq!(places.tenants().len(), 1);
    }
}
