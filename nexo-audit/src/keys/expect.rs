//! What somebody knows of an account: a list against which its history is held.
//!
//! ```text
//! # comment, also after a space behind a device; and empty lines
//! nexo1:<52 characters>      the account's fingerprint
//! <64 hex digits>            a device, by its id
//! key:<base64>               a device, by its Ed25519 key
//! name:<text>                the device of a plain account, by its name
//! ```
//!
//! Every device that was *ever* in the account has to be listed: one that came and went between
//! two looks is the one to hear of. With a fingerprint, the account itself has to be a listed
//! one; without, any account may have the handle, if only its devices are known.

use crate::encoding::{hash_from_base64, hash_from_hex, to_hex};
use crate::finding::Finding;
use crate::merkle::Hash;
use crate::sigchain::{Accounts, Fingerprint, Handle, History};

/// Longest list that is read, bytes.
pub(crate) const MAX_LIST: usize = 1 << 20;

/// A line that is none of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} is no fingerprint (nexo1:..), device id (64 hex digits), key:BASE64 or name:TEXT"
)]
pub(crate) struct ExpectError {
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A list, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    accounts: Vec<Hash>,
    devices: Vec<Hash>,
    keys: Vec<[u8; 32]>,
    names: Vec<String>,
}

impl Expected {
    /// Reads a list.
    ///
    /// # Errors
    /// [`ExpectError`] names the line.
    pub(crate) fn parse(text: &str) -> Result<Self, ExpectError> {
        let mut list = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = without_comment(line).trim();
            if !line.is_empty() && !list.take(line) {
                return Err(ExpectError { line: number + 1 });
            }
        }
        Ok(list)
    }

    fn take(&mut self, line: &str) -> bool {
        if let Some(Fingerprint(account)) = Fingerprint::parse(line) {
            self.accounts.push(account);
        } else if let Some(key) = line.strip_prefix("key:").and_then(hash_from_base64) {
            self.keys.push(key);
        } else if let Some(name) = line.strip_prefix("name:").filter(|name| !name.is_empty()) {
            self.names.push(name.to_owned());
        } else if let Some(id) = hash_from_hex(line) {
            self.devices.push(id);
        } else {
            return false;
        }
        true
    }

    /// Holds a history against the list.
    ///
    /// # Errors
    /// [`Finding::ForeignDevice`] with everything that is not listed.
    pub(crate) fn compare(&self, handle: &Handle, history: &History) -> Result<(), Finding> {
        let mut foreign = Vec::new();
        match &history.accounts {
            Accounts::Plain(record) => {
                self.account(&record.account, &mut foreign);
                let known = self.names.contains(&record.device) || self.keys.contains(&record.key);
                if !known {
                    foreign.push(format!("name:{}", record.device));
                }
            }
            Accounts::Native(chains) => {
                for chain in chains {
                    self.account(&chain.account, &mut foreign);
                    let unknown = chain.devices.iter().filter(|device| {
                        let by_key = self.keys.contains(device.key.as_bytes());
                        !by_key && !self.devices.contains(&device.id)
                    });
                    foreign.extend(unknown.map(|device| to_hex(&device.id)));
                }
            }
        }
        let handle = handle.to_string();
        if foreign.is_empty() { Ok(()) } else { Err(Finding::ForeignDevice { handle, foreign }) }
    }

    fn account(&self, account: &Hash, foreign: &mut Vec<String>) {
        if !self.accounts.is_empty() && !self.accounts.contains(account) {
            foreign.push(Fingerprint(*account).to_string());
        }
    }
}

/// A line up to its comment. The name of a device may have a `#` in it, so one begins a comment
/// only where a word begins.
fn without_comment(line: &str) -> &str {
    let begins = |at: usize| line[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(|at| begins(*at));
    comment.map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::to_base64;
    use crate::entry::Entry;
    use crate::sigchain::testchain::{Account, Person, log_key};
    use crate::sigchain::{Body, Logged, label, replay};
    use crate::testlog::ORIGIN;

    fn alice() -> Handle {
        Handle::parse("alice").unwrap()
    }

    fn history(account: &Account) -> History {
        let logged: Vec<Logged> = (0..)
            .zip(&account.events)
            .map(|(index, signed)| {
                let label = label(ORIGIN, &alice());
                let (event, signatures) = (signed.event_hash(), signed.signatures_hash());
                let entry = Entry::KeyEvent { label, event, signatures };
                Logged { index, entry, body: Body::Native(signed.clone()) }
            })
            .collect();
        replay(&log_key(), &alice(), &logged).unwrap().unwrap()
    }

    fn foreign(list: &str, history: &History) -> Vec<String> {
        match Expected::parse(list).unwrap().compare(&alice(), history) {
            Ok(()) => vec![],
            Err(Finding::ForeignDevice { foreign, .. }) => foreign,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_name_of_a_device_may_have_a_hash_in_it() {
        let list = Expected::parse("#\n name:a#b # c\nname:#d\nname:e #\n\t# f").unwrap();
        assert_eq!(list.names, ["a#b", "#d", "e"]);
        assert_eq!(Expected::parse("name:a\n!# b"), Err(ExpectError { line: 2 }));
    }

    #[test]
    fn every_device_ever_has_to_be_listed() {
        let (first, guest) = (Person::new(1), Person::new(3));
        let mut account = Account::new("alice", &first, &Person::new(2));
        let fingerprint = Fingerprint(account.events[0].event_hash()).to_string();
        let (first_id, guest_id) = (to_hex(&first.device_id()), to_hex(&guest.device_id()));
        let key = format!("key:{}", to_base64(&first.public()));
        for list in [&first_id, &key, &format!("# mine\n\n  {first_id}  # laptop\n{fingerprint}\n")]
        {
            assert_eq!(foreign(list, &history(&account)), Vec::<String>::new(), "{list}");
        }
        account.add(&first, &guest, 7);
        assert_eq!(foreign(&first_id, &history(&account)), std::slice::from_ref(&guest_id));
        account.revoke(&first, &guest);
        assert_eq!(
            foreign(&key, &history(&account)),
            std::slice::from_ref(&guest_id),
            "it was there"
        );
        assert_eq!(foreign("", &history(&account)), [first_id.clone(), guest_id.clone()]);
        let both = format!("{first_id}\n{guest_id}\n");
        assert!(foreign(&both, &history(&account)).is_empty());
        let other = Fingerprint([9; 32]);
        assert_eq!(foreign(&format!("{both}{other}"), &history(&account)), [fingerprint]);
    }

    #[test]
    fn lines_that_are_none_are_named() {
        for (text, line) in [
            ("laptop", 1),
            ("\n# x\nnexo1:abc", 3),
            ("key:AQ==", 1),
            ("name:", 1),
            (&"AB".repeat(32), 1),
        ] {
            assert_eq!(Expected::parse(text), Err(ExpectError { line }), "{text}");
        }
        assert_eq!(Expected::parse("name:tab-1").unwrap().names, ["tab-1"]);
    }
}
