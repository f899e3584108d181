//! Turns, garbage, retention; tenants and their keys.

use std::collections::BTreeMap;
use std::time::Duration;

use likeness_proto::{ErrorCode, LeaseId, ObjectKey, ObjectKind, Refusal, SubjectName, TenantId, kind_of, lease_of};
use uuid::Uuid;

use super::Result;
use super::people::stored_at;
use super::tables::{Owner, Tables, Writing};
use crate::audit::{Action, Actor};
use crate::clock::Timestamp;
use crate::lifecycle::TaskState;
use crate::store::{Key, NewKey, Signal, Tenant, Terms, TermsChange};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Tables {
    pub(super) fn tenant(&self, id: &TenantId) -> Result<Tenant> {
        let unknown = || Refusal::new(ErrorCode::UnknownTenant, format!("there is no tenant {id}"));
        Ok(self.tenants.get(id).cloned().ok_or_else(unknown)?)
    }

    /// Whether somebody may be writing the object, or a next lease will read it.
    fn wants(&self, owner: &Owner, lease: LeaseId, key: &ObjectKey) -> bool {
        let tasks = self.courses_of(owner).flat_map(|(_, row)| row.course.tasks.iter().zip(&row.tasks));
        tasks.filter(|(task, _)| !task.state.ended()).any(|(task, beside)| {
            let begins = beside.checkpoint.as_ref().and_then(|begins| begins.object.as_ref());
            let leased = matches!(task.state, TaskState::Leased(_)) && task.id == lease.task;
            (leased && task.fence() == Some(lease.fence)) || begins.is_some_and(|object| object.key == key.as_str())
        })
    }

    pub(super) fn overdue(&self, now: Timestamp) -> Vec<Owner> {
        let is_overdue = |owner: &&Owner| {
            let days = self.tenants.get(&owner.0).map_or(0, |tenant| tenant.terms.retention_days);
            let live = self.courses_of(owner).filter(|(_, row)| !row.forgotten);
            let ended = live.map(|(place, _)| self.jobs[&(place.tenant.clone(), place.job)].ended_at.unwrap_or(now));
            let last = ended.max().into_iter().fold(stored_at(&self.subjects[*owner]), Timestamp::max);
            days > 0 && !self.has_upload(owner) && last + DAY * days <= now
        };
        self.subjects.keys().filter(is_overdue).cloned().collect()
    }

    pub(super) fn keys_of(&self, tenant: Option<&TenantId>) -> Vec<Key> {
        let of = |key: &&Key| tenant.is_none() || key.tenant.as_ref() == tenant;
        let mut keys: Vec<_> = self.api_keys.values().filter(of).cloned().collect();
        keys.sort_by_key(|key| (key.tenant.clone(), key.created_at, key.prefix.clone()));
        keys
    }

    pub(super) fn live_key(&self, prefix: &str, now: Timestamp) -> Option<&Key> {
        let is_live = |key: &&Key| key.revoked_at.is_none() && key.expires_at.is_none_or(|end| end > now);
        self.api_keys.get(prefix).filter(is_live)
    }
}

impl Writing<'_> {
    pub(super) fn take_turn(&mut self, work: &str, holder: Uuid, span: Duration) -> bool {
        let taken = self.t.turns.get(work).is_some_and(|(other, ends)| *other != holder && *ends > self.now);
        if !taken {
            self.t.turns.insert(work.to_owned(), (holder, self.now + span));
        }
        !taken
    }

    /// Photos are never among them: a sweep is owed that keeps uploads out.
    pub(super) fn garbage(&mut self, of: &TenantId, subject: &SubjectName, keys: Vec<ObjectKey>) -> Vec<ObjectKey> {
        let owner = (of.clone(), subject.clone());
        let unpublished = keys.into_iter().filter(|key| !self.t.objects.contains_key(&(of.clone(), key.clone())));
        let (photos, outputs): (Vec<_>, Vec<_>) = unpublished.partition(|key| kind_of(key) == ObjectKind::Photo);
        let swept = self.t.erasures.values().any(|owed| owed.of() == owner && owed.due <= self.now);
        if !photos.is_empty() && !swept && !self.t.has_upload(&owner) {
            self.owe(&owner, self.now, None);
        }
        let is_wanted = |key: &ObjectKey| lease_of(key).is_some_and(|lease| self.t.wants(&owner, lease, key));
        outputs.into_iter().filter(|key| !is_wanted(key)).collect()
    }

    pub(super) fn create_tenant(&mut self, id: &TenantId, terms: &Terms, by: &Actor) -> Tenant {
        if let Some(tenant) = self.t.tenants.get(id) {
            return tenant.clone();
        }
        let tenant = Tenant { id: id.clone(), created_at: self.now, terms: terms.clone() };
        self.t.tenants.insert(id.clone(), tenant.clone());
        self.note(by, Some(id), Action::TenantCreated, self.policy.blind.tenant(id));
        tenant
    }

    pub(super) fn update_tenant(&mut self, id: &TenantId, change: &TermsChange, by: &Actor) -> Result<Tenant> {
        let mut tenant = self.t.tenant(id)?;
        tenant.terms = change.apply(&tenant.terms);
        self.t.tenants.insert(id.clone(), tenant.clone());
        self.note(by, Some(id), Action::TenantUpdated, self.policy.blind.tenant(id));
        // It may be that more may run now.
        self.tell(Signal::Ready);
        Ok(tenant)
    }

    fn note_key(&mut self, key: &Key, action: Action, by: &Actor) {
        self.note(by, key.tenant.as_ref(), action, self.policy.blind.key(&key.prefix));
    }

    pub(super) fn create_key(&mut self, new: &NewKey, by: &Actor) -> Result<Key> {
        if let Some(id) = new.tenant.as_ref().filter(|id| !self.t.tenants.contains_key(*id)) {
            return Err(Refusal::new(ErrorCode::UnknownTenant, format!("there is no tenant {id}")).into());
        }
        let key = Key {
            prefix: new.prefix.clone(),
            tenant: new.tenant.clone(),
            role: new.role,
            hash: new.hash,
            created_at: self.now,
            expires_at: new.life.map(|life| self.now + life),
            revoked_at: None,
        };
        self.t.api_keys.insert(key.prefix.clone(), key.clone());
        self.note_key(&key, Action::KeyCreated, by);
        Ok(key)
    }

    pub(super) fn rotate_key(
        &mut self,
        old: &str,
        prefix: &str,
        hash: [u8; 32],
        overlap: Duration,
        by: &Actor,
    ) -> Result<Key> {
        let (now, end) = (self.now, self.now + overlap);
        let live = self.t.live_key(old, now).cloned().ok_or_else(|| unknown(old))?;
        let expires_at = Some(live.expires_at.map_or(end, |before| before.min(end)));
        self.t.api_keys.insert(old.to_owned(), Key { expires_at, ..live.clone() });
        let key = Key { prefix: prefix.to_owned(), hash, created_at: now, expires_at: None, ..live };
        self.t.api_keys.insert(prefix.to_owned(), key.clone());
        self.note_key(&key, Action::KeyRotated, by);
        Ok(key)
    }

    pub(super) fn revoke_key(&mut self, prefix: &str, by: &Actor) -> Result<Key> {
        let now = self.now;
        let keys: &mut BTreeMap<_, _> = &mut self.t.api_keys;
        let key = keys.get_mut(prefix).ok_or_else(|| unknown(prefix))?;
        let is_news = key.revoked_at.is_none();
        key.revoked_at.get_or_insert(now);
        let key = key.clone();
        if is_news {
            self.note_key(&key, Action::KeyRevoked, by);
        }
        Ok(key)
    }
}

fn unknown(prefix: &str) -> Refusal {
    Refusal::new(ErrorCode::UnknownKey, format!("there is no live key {prefix:?}"))
}
