//! Chains that were replayed already, so that a thousand messages of one device cost one replay.
//!
//! What a chain proves follows from its bytes alone, under the log's key and a handle. So nothing
//! is remembered of an account but by the bytes that proved it: one event more, or one bit
//! another, and the whole chain is replayed.

use std::cell::RefCell;
use std::collections::HashMap;

use nexo_audit::key::LogKey;
use nexo_schema::ids::Handle;

use super::chain::{Account, ChainRefused, replay};
use crate::vault::ChainEvent;

/// Accounts that are remembered at once; then all of them are forgotten.
const MOST: usize = 64;

/// What chains have proved, by their handles.
#[derive(Default)]
pub(super) struct Replayed(RefCell<HashMap<String, (Vec<ChainEvent>, Account)>>);

impl Replayed {
    /// The account that a chain proves; see [`replay`]. The key has to be the same every time.
    ///
    /// # Errors
    /// [`ChainRefused`].
    pub(super) fn account(
        &self,
        log_key: &LogKey,
        handle: &Handle,
        events: &[ChainEvent],
    ) -> Result<Account, ChainRefused> {
        let mut known = self.0.borrow_mut();
        if let Some((replayed, account)) = known.get(handle.as_str())
            && replayed == events
        {
            return Ok(account.clone());
        }
        let account = replay(log_key, handle, events)?;
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(handle.as_str().to_owned(), (events.to_vec(), account.clone()));
        Ok(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::{first_event, identity};
    use crate::trust::testlog::TestLog;

    /// The first event of an account.
    fn chain(log: &TestLog, handle: &Handle, seed: u8) -> Vec<ChainEvent> {
        let signed = first_event(&identity(log, handle.as_str(), seed));
        vec![ChainEvent { signed, sth_index: 1 }]
    }

    #[test]
    fn what_was_replayed_stands_for_the_same_bytes_and_no_others() {
        let log = TestLog::new("relay.example");
        let (key, replayed) = (log.key(), Replayed::default());
        let (bob, carol) = (Handle::parse("bob").unwrap(), Handle::parse("carol").unwrap());
        let events = chain(&log, &bob, 2);
        let account = replayed.account(&key, &bob, &events).unwrap();
        // Marked, to be known again.
        replayed.0.borrow_mut().get_mut("bob").unwrap().1.length = 77;
        assert_eq!(replayed.account(&key, &bob, &events).unwrap().length, 77);

        let damaged: [fn(&mut ChainEvent); 3] = [
            |one| one.signed.event[40] ^= 1,
            |one| one.signed.sig[0] ^= 1,
            |one| one.signed.accept_sig[0] ^= 1,
        ];
        for damage in damaged {
            let mut events = events.clone();
            damage(&mut events[0]);
            assert!(replayed.account(&key, &bob, &events).is_err());
        }
        assert!(replayed.account(&key, &carol, &events).is_err(), "the handle is signed too");
        let twice = [&events[..], &events[..]].concat();
        assert!(replayed.account(&key, &bob, &twice).is_err());
        assert!(replayed.account(&key, &bob, &[]).is_err());

        let moved = chain(&log, &bob, 3);
        let other = replayed.account(&key, &bob, &moved).unwrap();
        assert!(other.id != account.id && other.length == 1);
        assert_eq!(replayed.account(&key, &bob, &events).unwrap().id, account.id);
    }

    #[test]
    fn no_more_than_some_are_remembered() {
        let log = TestLog::new("relay.example");
        let replayed = Replayed::default();
        for number in 0..=MOST {
            let handle = Handle::parse(&format!("bot-{number}")).unwrap();
            let events = chain(&log, &handle, 2);
            replayed.account(&log.key(), &handle, &events).unwrap();
            assert!(replayed.0.borrow().len() <= MOST);
        }
        assert_eq!(replayed.0.borrow().len(), 1);
    }
}
