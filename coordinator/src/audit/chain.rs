use likeness_proto::Sha256;

use super::Entry;

/// A log that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry is not there.
    #[error("audit entry {sequence} is missing: entry {instead} stands in its place")]
    Missing {
        /// Its number.
        sequence: u64,
        /// The number of the one that comes instead.
        instead: u64,
    },
    /// An entry's contents do not give its hash.
    #[error("audit entry {sequence} was changed: its contents do not give its hash")]
    Changed {
        /// Its number.
        sequence: u64,
    },
    /// An entry was written after another one than the one before it.
    #[error("audit entry {sequence} does not follow from the entry before it: one of both was replaced")]
    Unlinked {
        /// Its number.
        sequence: u64,
    },
    /// The head that was noted is not there.
    #[error(
        "the audit log ends with entry {last} and does not hold the noted head {head}: its end was cut off or replaced"
    )]
    Truncated {
        /// The last entry; 0: there is none.
        last: u64,
        /// The head that was noted.
        head: Sha256,
    },
}

/// A log that is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many entries it has.
    pub entries: u64,
    /// The hash of the last; zeros: there is none. Noted elsewhere, it tells later that nothing was cut off.
    pub head: Sha256,
}

/// Walks a log from its first entry.
#[derive(Clone, Debug)]
pub struct Chain {
    last: u64,
    head: Sha256,
    /// The head that was noted, until it is met.
    wanted: Option<Sha256>,
}

impl Chain {
    /// What is before the first entry.
    pub(crate) const NOTHING: Sha256 = Sha256::from_bytes([0; 32]);

    /// Begins; `noted`: a head that this log had once.
    #[must_use]
    pub fn new(noted: Option<Sha256>) -> Self {
        Self { last: 0, head: Self::NOTHING, wanted: noted.filter(|head| *head != Self::NOTHING) }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// When it does not belong there.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), Broken> {
        let sequence = self.last + 1;
        if entry.sequence != sequence {
            return Err(Broken::Missing { sequence, instead: entry.sequence });
        }
        if entry.previous != self.head {
            return Err(Broken::Unlinked { sequence });
        }
        if entry.digest() != entry.hash {
            return Err(Broken::Changed { sequence });
        }
        (self.last, self.head) = (sequence, entry.hash);
        self.wanted = self.wanted.filter(|head| *head != entry.hash);
        Ok(())
    }

    /// The end of the log.
    ///
    /// # Errors
    /// When the noted head was not among its entries.
    pub fn end(self) -> Result<Verified, Broken> {
        match self.wanted {
            None => Ok(Verified { entries: self.last, head: self.head }),
            Some(head) => Err(Broken::Truncated { last: self.last, head }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Action, Actor};

    fn log(entries: u64) -> Vec<Entry> {
        let mut log = Vec::new();
        for sequence in 1..=entries {
            let mut entry = Entry {
                sequence,
                at: 1_000 * sequence as i64,
                actor: Actor::key("lk01").to_string(),
                tenant: "acme".into(),
                action: Action::SubjectPut.number(),
                target: Sha256::of(&sequence.to_be_bytes()),
                previous: log.last().map_or(Chain::NOTHING, |last: &Entry| last.hash),
                hash: Chain::NOTHING,
            };
            entry.hash = entry.digest();
            log.push(entry);
        }
        log
    }

    fn walk(log: &[Entry], noted: Option<Sha256>) -> Result<Verified, Broken> {
        let mut chain = Chain::new(noted);
        log.iter().try_for_each(|entry| chain.follow(entry))?;
        chain.end()
    }

    #[test]
    fn a_log_verifies_with_any_of_its_heads() {
        let log = log(5);
        assert_eq!(walk(&log, None), Ok(Verified { entries: 5, head: log[4].hash }));
        assert!(log.iter().all(|entry| walk(&log, Some(entry.hash)).is_ok()));
        assert_eq!(walk(&[], Some(Chain::NOTHING)), Ok(Verified { entries: 0, head: Chain::NOTHING }));
    }

    #[test]
    fn an_entry_s_hash_is_what_the_documentation_says() {
        // Computed apart, by Python's hashlib from the bytes that the module describes.
        let want = "f449faaf1872d20a24603a28790a7ea0e9682d055c1b85b68b5e696f31403843";
        assert_eq!(log(1)[0].hash.to_string(), want);
    }

    #[test]
    fn every_field_of_an_entry_is_under_its_hash() {
        let changes: [fn(&mut Entry); 5] = [
            |entry| entry.at += 1,
            |entry| entry.actor.push('x'),
            |entry| entry.tenant.clear(),
            |entry| entry.action = Action::KeyRevoked.number(),
            |entry| entry.target = Chain::NOTHING,
        ];
        for change in changes {
            let mut log = log(3);
            change(&mut log[1]);
            assert_eq!(walk(&log, None), Err(Broken::Changed { sequence: 2 }));
        }
    }

    #[test]
    fn a_text_moved_from_one_field_to_the_next_changes_the_hash() {
        let mut log = log(1);
        let entry = &mut log[0];
        (entry.actor, entry.tenant) = ("key:lk01a".into(), "cme".into());
        assert_eq!(walk(&log, None), Err(Broken::Changed { sequence: 1 }));
    }

    #[test]
    fn an_entry_that_is_gone_new_or_in_another_place_shows() {
        let mut gone = log(4);
        gone.remove(1);
        assert_eq!(walk(&gone, None), Err(Broken::Missing { sequence: 2, instead: 3 }));
        let mut swapped = log(4);
        swapped.swap(1, 2);
        assert_eq!(walk(&swapped, None), Err(Broken::Missing { sequence: 2, instead: 3 }));
        let mut renumbered = swapped;
        (renumbered[1].sequence, renumbered[2].sequence) = (2, 3);
        assert_eq!(walk(&renumbered, None), Err(Broken::Unlinked { sequence: 2 }));
        // Whoever hashes a changed entry anew has to do so with all that follow.
        let mut forged = log(4);
        forged[1].actor = "key:lk02".into();
        forged[1].hash = forged[1].digest();
        assert_eq!(walk(&forged, None), Err(Broken::Unlinked { sequence: 3 }));
    }

    #[test]
    fn an_end_that_was_cut_off_shows_to_whoever_noted_it() {
        let mut log = log(4);
        let noted = log.pop().unwrap().hash;
        assert!(walk(&log, None).is_ok(), "by itself it looks whole");
        assert_eq!(walk(&log, Some(noted)), Err(Broken::Truncated { last: 3, head: noted }));
    }
}
