//! An account from the first entry of its handle to the last.
//!
//! A handle has one account: a plain one, which is one record, or a native one, which is one
//! chain; a second chain only after an operator's reset that names it.
//!
//! ```text
//! account id = H(enc("nexo/1/plain-account", [origin, handle, ed25519_pub]))
//! record     = enc("nexo/1/plain/key", [origin, handle, account_id, device_id, ed25519_pub])
//! ```

use super::event::{Change, SignedEvent};
use super::name::{Handle, label};
use super::rules::{Chain, End, Violation};
use super::wire::{enc, hash};
use crate::encoding::to_hex;
use crate::entry::Entry;
use crate::key::{AccountKey, LogKey};
use crate::merkle::Hash;

/// The record of a plain account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainRecord {
    /// Its name.
    pub handle: String,
    /// Its id.
    pub account: Hash,
    /// Its one device, as the client or the relay named it.
    pub device: String,
    /// The device's key.
    pub key: [u8; 32],
}

/// What an entry for a key was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An event of a chain.
    Native(SignedEvent),
    /// The record of a plain account.
    Plain(PlainRecord),
}

/// An entry of the log for a key, its leaf index, and what the server says it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// RFC 6962 leaf index, from 0.
    pub index: u64,
    /// The entry that the log has there.
    pub entry: Entry,
    /// What is shown for it.
    pub body: Body,
}

/// What happened to an account, in one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Leaf index.
    pub index: u64,
    /// Its number in the chain; 0 for a plain account.
    pub seq: u64,
    /// The type's name in PROTOCOL.md, or `plain`.
    pub change: &'static str,
    /// The device it concerns, in hex; of a plain account its name.
    pub device: Option<String>,
    /// The device that signed, in hex; `None` where no device did.
    pub signer: Option<String>,
    /// The signer's clock, Unix milliseconds; for people.
    pub time_ms: Option<u64>,
}

/// An account that followed the rules from its first entry on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Every event, in the order of the log.
    pub steps: Vec<Step>,
    /// What came of them.
    pub accounts: Accounts,
}

/// Who a handle belongs to, and belonged to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accounts {
    /// A plain account.
    Plain(PlainRecord),
    /// Chains; all but the last were ended by the operator.
    Native(Vec<Chain>),
}

/// Replays everything that the log has for `handle`, in the order of the log. `None` for no
/// entry at all.
///
/// # Errors
/// The leaf index where a rule was broken, and the rule.
pub fn replay(
    log_key: &LogKey,
    handle: &Handle,
    logged: &[Logged],
) -> Result<Option<History>, (u64, Violation)> {
    let label = label(log_key.origin(), handle);
    let mut history: Option<History> = None;
    for one in logged {
        let at = |violation| (one.index, violation);
        committed(log_key, &label, one).map_err(at)?;
        match (&mut history, &one.body) {
            (None, Body::Native(signed)) => {
                let chain = Chain::begin(log_key, handle, one.index, signed).map_err(at)?;
                let steps = vec![first_step(one.index, &chain, signed)];
                history = Some(History { steps, accounts: Accounts::Native(vec![chain]) });
            }
            (None, Body::Plain(record)) => {
                plain(log_key, handle, record).map_err(at)?;
                let steps = vec![plain_step(one.index, record)];
                history = Some(History { steps, accounts: Accounts::Plain(record.clone()) });
            }
            (Some(history), Body::Native(signed)) => {
                history.go_on(log_key, handle, one.index, signed).map_err(at)?;
            }
            (Some(_), Body::Plain(_)) => return Err(at(Violation::SecondAccount)),
        }
    }
    Ok(history)
}

impl History {
    fn go_on(
        &mut self,
        log_key: &LogKey,
        handle: &Handle,
        index: u64,
        signed: &SignedEvent,
    ) -> Result<(), Violation> {
        let Accounts::Native(chains) = &mut self.accounts else {
            return Err(Violation::SecondAccount);
        };
        // A replay begins with a chain, and chains are only ever added.
        let Some(newest) = chains.last_mut() else { return Err(Violation::NotGenesis) };
        if let Some(End::Reset { genesis }) = newest.ended {
            if signed.event_hash() != genesis {
                return Err(Violation::OtherGenesis);
            }
            let chain = Chain::begin(log_key, handle, index, signed)?;
            self.steps.push(first_step(index, &chain, signed));
            chains.push(chain);
            return Ok(());
        }
        let event = newest.follow(log_key, index, signed)?;
        let signer = match event.change {
            Change::Recover(_) | Change::Reset { .. } => None,
            _ => Some(to_hex(&event.signer)),
        };
        self.steps.push(Step {
            index,
            seq: event.seq,
            change: event.change.name(),
            device: event.change.device().map(|id| to_hex(&id)),
            signer,
            time_ms: Some(event.time_ms),
        });
        Ok(())
    }
}

fn first_step(index: u64, chain: &Chain, signed: &SignedEvent) -> Step {
    let device = chain.devices.first().map(|device| to_hex(&device.id));
    let event = super::event::Event::parse(&signed.event).ok();
    let time_ms = event.map(|event| event.time_ms);
    Step { index, seq: 0, change: "genesis", device: device.clone(), signer: device, time_ms }
}

fn plain_step(index: u64, record: &PlainRecord) -> Step {
    let device = Some(record.device.clone());
    Step { index, seq: 0, change: "plain", device, signer: None, time_ms: None }
}

/// Whether the body is the one that the entry's hashes were made of.
fn committed(log_key: &LogKey, wanted: &Hash, logged: &Logged) -> Result<(), Violation> {
    let fits = match (&logged.entry, &logged.body) {
        (Entry::KeyEvent { label, event, signatures }, Body::Native(signed)) => {
            label == wanted
                && *event == signed.event_hash()
                && *signatures == signed.signatures_hash()
        }
        (Entry::PlainKey { label, record }, Body::Plain(shown)) => {
            label == wanted && *record == record_hash(log_key.origin(), shown)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(Violation::NotLogged) }
}

fn record_hash(origin: &str, record: &PlainRecord) -> Hash {
    let PlainRecord { handle, account, device, key } = record;
    let fields: [&[u8]; 5] =
        [origin.as_bytes(), handle.as_bytes(), account, device.as_bytes(), key];
    hash(&enc("nexo/1/plain/key", &fields))
}

fn plain(log_key: &LogKey, handle: &Handle, record: &PlainRecord) -> Result<(), Violation> {
    let fields: [&[u8]; 3] = [log_key.origin().as_bytes(), handle.as_str().as_bytes(), &record.key];
    let account = hash(&enc("nexo/1/plain-account", &fields));
    let strict = AccountKey::parse(&record.key).is_ok();
    // 64 hex digits are kept for native ids, so that no plain name can look like one.
    let native = record.device.len() == 64 && record.device.bytes().all(|b| b.is_ascii_hexdigit());
    let named = (1..=64).contains(&record.device.len())
        && record.device.bytes().all(|byte| byte.is_ascii_graphic());
    let good = record.handle == handle.as_str() && record.account == account;
    if good && strict && named && !native { Ok(()) } else { Err(Violation::PlainRecord) }
}

#[cfg(test)]
mod tests {
    use super::super::testchain::{Account, Person, log_key};
    use super::*;
    use crate::testlog::ORIGIN;

    fn alice() -> Handle {
        Handle::parse("alice").unwrap()
    }

    fn logged(index: u64, body: Body) -> Logged {
        let label = label(ORIGIN, &alice());
        let entry = match &body {
            Body::Native(signed) => Entry::KeyEvent {
                label,
                event: signed.event_hash(),
                signatures: signed.signatures_hash(),
            },
            Body::Plain(record) => Entry::PlainKey { label, record: record_hash(ORIGIN, record) },
        };
        Logged { index, entry, body }
    }

    /// Events at every tenth leaf.
    fn chain(events: &[SignedEvent]) -> Vec<Logged> {
        let indexes = (0..).step_by(10);
        indexes.zip(events).map(|(at, event)| logged(at, Body::Native(event.clone()))).collect()
    }

    fn record() -> PlainRecord {
        let key = Person::new(1).public();
        let fields: [&[u8]; 3] = [ORIGIN.as_bytes(), b"alice", &key];
        let account = hash(&enc("nexo/1/plain-account", &fields));
        PlainRecord { handle: "alice".into(), account, device: "tab-1".into(), key }
    }

    fn replayed(logged: &[Logged]) -> Result<Option<History>, (u64, Violation)> {
        replay(&log_key(), &alice(), logged)
    }

    #[test]
    fn a_chain_is_told_step_by_step() {
        let (first, phone) = (Person::new(1), Person::new(3));
        let mut account = Account::new("alice", &first, &Person::new(2));
        account.add(&first, &phone, 7);
        account.recover(&Person::new(2), &Person::new(4));
        let history = replayed(&chain(&account.events)).unwrap().unwrap();
        let steps: Vec<_> =
            history.steps.iter().map(|s| (s.index, s.seq, s.change, s.signer.is_some())).collect();
        let recover = (20, 2, "recover", false);
        assert_eq!(steps, [(0, 0, "genesis", true), (10, 1, "add_device", true), recover]);
        assert_eq!(history.steps[1].device, Some(to_hex(&phone.device_id())));
        assert_eq!(history.steps[1].signer, Some(to_hex(&first.device_id())));
        assert_eq!(history.steps[0].time_ms, Some(1_700_000_000_000));
        assert_eq!(replayed(&[]), Ok(None));
    }

    #[test]
    fn a_body_is_the_one_its_entry_was_made_of() {
        let account = Account::new("alice", &Person::new(1), &Person::new(2));
        let good = chain(&account.events);
        let other = Account::new("alice", &Person::new(1), &Person::new(3));
        let mut swapped = good.clone();
        swapped[0].body = Body::Native(other.events[0].clone());
        let mut resigned = account.events[0].clone();
        resigned.accept_sig[3] ^= 1;
        let mut signatures = good.clone();
        signatures[0].body = Body::Native(resigned);
        let mut kind = good.clone();
        kind[0].body = Body::Plain(record());
        let mut labelled = good;
        if let Entry::KeyEvent { label, .. } = &mut labelled[0].entry {
            label[0] ^= 1;
        }
        for bad in [swapped, signatures, kind, labelled] {
            assert_eq!(replayed(&bad), Err((0, Violation::NotLogged)));
        }
    }

    #[test]
    fn a_handle_has_one_account() {
        let mut account = Account::new("alice", &Person::new(1), &Person::new(2));
        let second = Account::new("alice", &Person::new(3), &Person::new(4)).events.remove(0);
        let mut events = account.events.clone();
        events.push(second.clone());
        assert_eq!(replayed(&chain(&events)), Err((10, Violation::SecondAccount)));
        let plain = [logged(0, Body::Plain(record())), logged(9, Body::Native(second.clone()))];
        assert_eq!(replayed(&plain), Err((9, Violation::SecondAccount)));
        let mut mixed = chain(&account.events);
        mixed.push(logged(7, Body::Plain(record())));
        assert_eq!(replayed(&mixed), Err((7, Violation::SecondAccount)));

        // But for the one that the operator announced.
        account.reset(&Person::log(), second.event_hash());
        account.events.push(second.clone());
        let history = replayed(&chain(&account.events)).unwrap().unwrap();
        let Accounts::Native(chains) = history.accounts else { panic!() };
        assert_eq!((chains.len(), chains[0].active().count()), (2, 0));
        assert_eq!(chains[1].account, second.event_hash());
        account.events[2] =
            Account::new("alice", &Person::new(5), &Person::new(4)).events.remove(0);
        assert_eq!(replayed(&chain(&account.events)), Err((20, Violation::OtherGenesis)));
        account.events[2] = account.events[1].clone();
        assert_eq!(replayed(&chain(&account.events)), Err((20, Violation::OtherGenesis)));
    }

    /// The hash is over the encoding of PROTOCOL.md 6, made by hand.
    #[test]
    fn a_plain_record_is_the_one_its_entry_was_made_of() {
        let (handle, device) = ("alice".into(), "tab-1".into());
        let known = PlainRecord { handle, account: [1; 32], device, key: [2; 32] };
        let hash = "b4dc5a6fc43ed9caf3256652de16456260c0566c40f1c2da6c1028a80154c9d8";
        assert_eq!(to_hex(&record_hash("log.example", &known)), hash);

        // The label alone is another, then the record alone.
        let good = logged(4, Body::Plain(record()));
        let spoil: [fn(&mut Hash, &mut Hash); 2] = [|label, _| label[0] ^= 1, |_, r| r[0] ^= 1];
        for spoil in spoil {
            let mut bad = good.clone();
            let Entry::PlainKey { label, record } = &mut bad.entry else { panic!() };
            spoil(label, record);
            assert_eq!(replayed(&[bad]), Err((4, Violation::NotLogged)));
        }
    }

    #[test]
    fn a_plain_device_has_a_short_visible_name_that_is_no_native_id() {
        let named = |device: &str| {
            let record = PlainRecord { device: device.into(), ..record() };
            replayed(&[logged(4, Body::Plain(record))]).map(drop)
        };
        let hex = "0a".repeat(32);
        for good in ["!", "~", &hex[1..], &"g".repeat(64), &format!("{}g", &hex[1..])] {
            assert_eq!(named(good), Ok(()), "{good}");
        }
        let longer = format!("{hex}0");
        for bad in [&hex, &hex.to_uppercase(), &longer, &"g".repeat(65), "\u{7f}", "a\tb", "\u{e9}"]
        {
            assert_eq!(named(bad), Err((4, Violation::PlainRecord)), "{bad:?}");
        }
    }

    #[test]
    fn a_plain_record_names_this_log_handle_and_key() {
        let history = replayed(&[logged(4, Body::Plain(record()))]).unwrap().unwrap();
        assert_eq!(history.accounts, Accounts::Plain(record()));
        let spoil: [fn(&mut PlainRecord); 6] = [
            |r| r.handle = "bob".into(),
            |r| r.account[0] ^= 1,
            |r| r.key = Person::new(2).public(),
            |r| r.device = String::new(),
            |r| r.device = "a b".into(),
            |r| r.device = "0".repeat(64),
        ];
        for (case, spoil) in spoil.into_iter().enumerate() {
            let mut bad = record();
            spoil(&mut bad);
            let found = replayed(&[logged(4, Body::Plain(bad))]);
            assert_eq!(found, Err((4, Violation::PlainRecord)), "{case}");
        }
        let mut weak = record();
        weak.key = [0; 32];
        weak.account =
            hash(&enc("nexo/1/plain-account", &[ORIGIN.as_bytes(), b"alice", &weak.key]));
        assert_eq!(replayed(&[logged(4, Body::Plain(weak))]), Err((4, Violation::PlainRecord)));
    }
}
