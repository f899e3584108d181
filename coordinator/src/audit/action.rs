use std::fmt;

use likeness_proto::ObjectKind;

/// What can stand in the log. What is not here is not logged: looks at lists and jobs, and what the fleet does with its leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A tenant was made.
    TenantCreated,
    /// A tenant was given other terms.
    TenantUpdated,
    /// An API key was made.
    KeyCreated,
    /// An API key was given a successor, which is the target.
    KeyRotated,
    /// An API key was ended.
    KeyRevoked,
    /// Photos of a subject were stored.
    SubjectPut,
    /// A subject was erased because somebody asked.
    SubjectForgotten,
    /// A subject was erased because its tenant keeps it no longer.
    RetentionErased,
    /// A subject was erased again, since a restored backup held it still.
    ErasureReplayed,
    /// A job was accepted.
    JobSubmitted,
    /// A job was cancelled.
    JobCancelled,
    /// An object was read through the coordinator.
    Downloaded(ObjectKind),
    /// A link to an object was signed.
    LinkSigned(ObjectKind),
}

/// Every action, its number in the store, and its name. Numbers are never used again for another.
const ACTIONS: &[(Action, i32, &str)] = &[
    (Action::TenantCreated, 1, "tenant created"),
    (Action::KeyCreated, 2, "key created"),
    (Action::KeyRotated, 3, "key rotated"),
    (Action::KeyRevoked, 4, "key revoked"),
    (Action::TenantUpdated, 5, "tenant updated"),
    (Action::SubjectPut, 10, "subject put"),
    (Action::SubjectForgotten, 11, "subject forgotten"),
    (Action::RetentionErased, 12, "retention erased"),
    (Action::ErasureReplayed, 13, "erasure replayed"),
    (Action::JobSubmitted, 20, "job submitted"),
    (Action::JobCancelled, 21, "job cancelled"),
    (Action::Downloaded(ObjectKind::Photo), 30, "photo downloaded"),
    (Action::Downloaded(ObjectKind::Checkpoint), 31, "checkpoint downloaded"),
    (Action::Downloaded(ObjectKind::Embedding), 32, "embedding downloaded"),
    (Action::Downloaded(ObjectKind::Avatar), 33, "avatar downloaded"),
    (Action::Downloaded(ObjectKind::Other), 34, "contact sheet downloaded"),
    (Action::LinkSigned(ObjectKind::Photo), 40, "link to photo signed"),
    (Action::LinkSigned(ObjectKind::Checkpoint), 41, "link to checkpoint signed"),
    (Action::LinkSigned(ObjectKind::Embedding), 42, "link to embedding signed"),
    (Action::LinkSigned(ObjectKind::Avatar), 43, "link to avatar signed"),
    (Action::LinkSigned(ObjectKind::Other), 44, "link to contact sheet signed"),
];

impl Action {
    /// Its number in the store.
    pub(crate) fn number(self) -> i32 {
        let known = ACTIONS.iter().find(|(action, ..)| *action == self);
        known.map_or(0, |(_, number, _)| *number)
    }

    /// The action of this number, if this release knows it.
    #[must_use]
    pub fn of(number: i32) -> Option<Self> {
        ACTIONS.iter().find(|(_, known, _)| *known == number).map(|(action, ..)| *action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = ACTIONS.iter().find(|(action, ..)| action == self);
        f.write_str(known.map_or("", |(.., name)| name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_action_has_a_number_and_a_name_of_its_own() {
        use ObjectKind::{Avatar, Checkpoint, Embedding, Other, Photo};
        let kinds = [Photo, Checkpoint, Embedding, Avatar, Other];
        for action in kinds.map(Action::Downloaded).into_iter().chain(kinds.map(Action::LinkSigned)) {
            assert!(action.number() > 0, "{action:?}");
        }
        let numbers: BTreeSet<_> = ACTIONS.iter().map(|(_, number, _)| number).collect();
        let names: BTreeSet<_> = ACTIONS.iter().map(|(.., name)| name).collect();
        assert_eq!((numbers.len(), names.len()), (ACTIONS.len(), ACTIONS.len()));
        for (action, number, name) in ACTIONS {
            assert_eq!(
                (Action::of(*number), action.number(), action.to_string()),
                (Some(*action), *number, (*name).into())
            );
        }
    }
}
