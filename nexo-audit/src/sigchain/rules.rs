//! Which event may follow in a chain (PROTOCOL.md 4), decided from the chain alone.
//!
//! ```text
//! genesis       by the device it introduces, which is an admin and not limited
//! add, update,  by an admin device that is in the account
//!  close
//! revoke        by an admin device, or by the revoked device itself
//! set_recovery  by an admin device, accepted by the old recovery key
//! recover       by the recovery key; ends every device before it
//! reset         by the log's key; names the genesis that has to follow
//! ```
//!
//! A new device accepts its place with its own key, and has never been in the account before.
//! A [`Chain`] only ever holds what followed the rules; an event that does not leaves it as it
//! was.

use super::event::{Caps, Change, Device, Event, EventError, Genesis, SignedEvent};
use super::name::Handle;
use crate::key::{AccountKey, LogKey};
use crate::merkle::Hash;

const ZEROS: Hash = [0; 32];

/// The rule that an event breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It is no event.
    #[error("{0}")]
    Unreadable(#[from] EventError),
    /// It was made for another log.
    #[error("the event was made for another log")]
    Origin,
    /// The first entry of a handle is no genesis and no plain account.
    #[error("the first event of the handle is no genesis")]
    NotGenesis,
    /// A genesis with an account, number or predecessor, or that another device signs.
    #[error("the genesis is not the first event of its own device")]
    Genesis,
    /// A genesis that binds another handle than its entry's.
    #[error("the genesis binds another handle")]
    Handle,
    /// A first device that cannot administer, or is limited to conversations.
    #[error("the first device is no admin, or is limited to conversations")]
    FirstDevice,
    /// A second account under a handle, which no operator reset announced.
    #[error("the handle has an account already")]
    SecondAccount,
    /// After an operator reset, another genesis than the one it named.
    #[error("the operator reset named another genesis")]
    OtherGenesis,
    /// It names another account.
    #[error("the event is of another account")]
    Account,
    /// Its number is not the next one.
    #[error("the event has number {found} where {expected} is next")]
    Sequence {
        /// The next number.
        expected: u64,
        /// The event's.
        found: u64,
    },
    /// Its predecessor is not the newest event: the chain forks here.
    #[error("the event does not follow the newest one of its chain: the chain forks")]
    Previous,
    /// The chain was closed or reset.
    #[error("the chain has ended")]
    Ended,
    /// The signing device is not in the account, or no longer.
    #[error("the signing device is not in the account, or was revoked")]
    Signer,
    /// The signing device may not change the account.
    #[error("the signing device is no admin")]
    NotAdmin,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// The acceptance is missing, does not verify, or stands where there is none.
    #[error("the acceptance is missing, does not verify, or belongs nowhere")]
    Acceptance,
    /// A key that was in the account before.
    #[error("the device was in the account before")]
    Returned,
    /// The device that is revoked or updated is not in the account, or no longer.
    #[error("the device it changes is not in the account, or was revoked")]
    NoDevice,
    /// The record of a plain account is not the one its entry was made of.
    #[error("the record does not name this log, handle and key")]
    PlainRecord,
    /// The event is not the one that the entry was made of.
    #[error("the event is not the one that its entry was made of")]
    NotLogged,
    /// The log has an entry of the handle, and the server does not show its event.
    #[error("the log has an event here that the server withholds")]
    Withheld,
    /// More events than any account has.
    #[error("the account has more events than any account has")]
    TooMany,
}

/// A device of an account, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: Hash,
    /// Its key.
    pub key: AccountKey,
    /// What it may do, or might.
    pub caps: Caps,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// Leaf index of the event that added it.
    pub added: u64,
    /// Leaf index of the event that ended it.
    pub ended: Option<u64>,
}

/// The chain of one account, as far as it was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The account's id: the hash of its genesis.
    pub account: Hash,
    /// The name it binds.
    pub handle: Handle,
    /// Every device it ever had, in the order in which they came.
    pub devices: Vec<Member>,
    /// The key that can recover it.
    pub recovery: AccountKey,
    /// What ended it.
    pub ended: Option<End>,
    next: u64,
    head: Hash,
}

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By its owner.
    Closed,
    /// By the operator, for the chain of this genesis.
    Reset {
        /// Hash of the genesis that has to follow.
        genesis: Hash,
    },
}

impl Chain {
    /// Begins a chain with its genesis, which stands at leaf `index`.
    ///
    /// # Errors
    /// [`Violation`] names the rule.
    pub fn begin(
        log_key: &LogKey,
        handle: &Handle,
        index: u64,
        signed: &SignedEvent,
    ) -> Result<Self, Violation> {
        let event = Event::parse(&signed.event)?;
        let Change::Genesis(genesis) = event.change else { return Err(Violation::NotGenesis) };
        let Genesis { handle: bound, device, recovery } = *genesis;
        if event.origin != log_key.origin().as_bytes() {
            return Err(Violation::Origin);
        }
        let first = event.account == ZEROS && event.seq == 0 && event.prev == ZEROS;
        if !first || event.signer != device.id() {
            return Err(Violation::Genesis);
        }
        if bound != *handle {
            return Err(Violation::Handle);
        }
        if !device.caps.admin() || !device.conversations.is_empty() {
            return Err(Violation::FirstDevice);
        }
        verify(&device.key, &signed.event, &signed.sig, Violation::Signature)?;
        verify(&device.key, &signed.acceptance(), &signed.accept_sig, Violation::Acceptance)?;
        let account = signed.event_hash();
        let devices = vec![member(&device, index)];
        Ok(Self { account, handle: bound, devices, recovery, ended: None, next: 1, head: account })
    }

    /// Follows the chain by the event at leaf `index`.
    ///
    /// # Errors
    /// [`Violation`] names the rule; the chain is then as it was.
    pub fn follow(
        &mut self,
        log_key: &LogKey,
        index: u64,
        signed: &SignedEvent,
    ) -> Result<Event, Violation> {
        let event = Event::parse(&signed.event)?;
        if event.origin != log_key.origin().as_bytes() {
            return Err(Violation::Origin);
        }
        if self.ended.is_some() {
            return Err(Violation::Ended);
        }
        if matches!(event.change, Change::Genesis(_)) {
            return Err(Violation::SecondAccount);
        }
        if event.account != self.account {
            return Err(Violation::Account);
        }
        // The predecessor first: two events of one number are a fork, whatever else they are.
        if event.seq < self.next && event.prev != self.head {
            return Err(Violation::Previous);
        }
        if event.seq != self.next {
            return Err(Violation::Sequence { expected: self.next, found: event.seq });
        }
        if event.prev != self.head {
            return Err(Violation::Previous);
        }
        self.authorize(log_key, &event, signed)?;
        self.accepted(&event.change, signed)?;
        self.apply(&event.change, index)?;
        self.next += 1;
        self.head = signed.event_hash();
        Ok(event)
    }

    /// The devices that are in the account now.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        let open = !matches!(self.ended, Some(End::Closed | End::Reset { .. }));
        self.devices.iter().filter(move |device| open && device.ended.is_none())
    }

    /// Who signed, and whether they may.
    fn authorize(
        &self,
        log_key: &LogKey,
        event: &Event,
        signed: &SignedEvent,
    ) -> Result<(), Violation> {
        match &event.change {
            Change::Recover(_) | Change::Reset { .. } if event.signer != ZEROS => {
                Err(Violation::Signer)
            }
            Change::Recover(_) => {
                verify(&self.recovery, &signed.event, &signed.sig, Violation::Signature)
            }
            Change::Reset { .. } => {
                let sig = signed.sig.as_slice().try_into().map_err(|_| Violation::Signature)?;
                let ours = log_key.verifier().verifies(&signed.event, sig);
                if ours { Ok(()) } else { Err(Violation::Signature) }
            }
            change => {
                let signer = self.current(&event.signer).ok_or(Violation::Signer)?;
                let itself = matches!(change, Change::Revoke { device } if *device == event.signer);
                if !signer.caps.admin() && !itself {
                    return Err(Violation::NotAdmin);
                }
                verify(&signer.key, &signed.event, &signed.sig, Violation::Signature)
            }
        }
    }

    /// Whether those accepted who have to, and nobody else.
    fn accepted(&self, change: &Change, signed: &SignedEvent) -> Result<(), Violation> {
        let by = match change {
            Change::Add(device) | Change::Recover(device) => &device.key,
            Change::SetRecovery(_) => &self.recovery,
            _ if signed.accept_sig.is_empty() => return Ok(()),
            _ => return Err(Violation::Acceptance),
        };
        verify(by, &signed.acceptance(), &signed.accept_sig, Violation::Acceptance)
    }

    fn apply(&mut self, change: &Change, index: u64) -> Result<(), Violation> {
        match change {
            Change::Add(device) => {
                self.unknown(device)?;
                self.devices.push(member(device, index));
            }
            Change::Recover(device) => {
                self.unknown(device)?;
                for old in &mut self.devices {
                    old.ended.get_or_insert(index);
                }
                self.devices.push(member(device, index));
            }
            Change::Revoke { device } => self.current_mut(device)?.ended = Some(index),
            Change::Update { device, caps, not_after } => {
                let member = self.current_mut(device)?;
                (member.caps, member.not_after) = (*caps, *not_after);
            }
            Change::SetRecovery(key) => self.recovery = *key,
            Change::Reset { genesis } => self.ended = Some(End::Reset { genesis: *genesis }),
            Change::Close => self.ended = Some(End::Closed),
            Change::Genesis(_) => return Err(Violation::SecondAccount),
        }
        Ok(())
    }

    fn unknown(&self, device: &Device) -> Result<(), Violation> {
        let known = self.devices.iter().any(|member| member.key == device.key);
        if known { Err(Violation::Returned) } else { Ok(()) }
    }

    fn current(&self, id: &Hash) -> Option<&Member> {
        self.devices.iter().find(|member| member.id == *id && member.ended.is_none())
    }

    fn current_mut(&mut self, id: &Hash) -> Result<&mut Member, Violation> {
        let mut devices = self.devices.iter_mut();
        devices.find(|member| member.id == *id && member.ended.is_none()).ok_or(Violation::NoDevice)
    }
}

fn member(device: &Device, index: u64) -> Member {
    Member {
        id: device.id(),
        key: device.key,
        caps: device.caps,
        not_after: device.not_after,
        added: index,
        ended: None,
    }
}

fn verify(
    key: &AccountKey,
    message: &[u8],
    sig: &[u8],
    broken: Violation,
) -> Result<(), Violation> {
    let sig = sig.try_into().map_err(|_| broken)?;
    if key.verifies(message, sig) { Ok(()) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use super::super::testchain::{Account, DeviceBody, ORIGIN, Person, log_key, raw, seal};
    use super::super::wire::enc;
    use super::*;

    /// What follows a genesis of person 1 with recovery key 2; the last event is judged.
    fn judge(account: &Account) -> Result<Chain, Violation> {
        let mut events = account.events.iter().zip(0..);
        let (genesis, index) = events.next().unwrap();
        let handle = Handle::parse("alice").unwrap();
        let mut chain = Chain::begin(&log_key(), &handle, index, genesis)?;
        for (event, index) in events {
            let before = chain.clone();
            if let Err(violation) = chain.follow(&log_key(), index, event) {
                assert_eq!(chain, before, "a refused event changes nothing");
                return Err(violation);
            }
        }
        Ok(chain)
    }

    fn alice() -> Account {
        Account::new("alice", &Person::new(1), &Person::new(2))
    }

    #[test]
    fn a_life_with_every_event() {
        let [first, phone, ci, second] = [1, 3, 4, 5].map(Person::new);
        let mut account = alice();
        account.add(&first, &phone, 7);
        account.add(&phone, &ci, 10);
        account.update(&first, &ci, 2, 99);
        account.revoke(&ci, &ci);
        account.set_recovery(&phone, &Person::new(2), &Person::new(6));
        account.revoke(&first, &phone);
        account.recover(&Person::new(6), &second);
        let chain = judge(&account).unwrap();
        let ended: Vec<_> = chain.devices.iter().map(|d| (d.id, d.added, d.ended)).collect();
        let of = |person: &Person, added, ended| (person.device_id(), added, ended);
        assert_eq!(
            ended,
            [
                of(&first, 0, Some(7)),
                of(&phone, 1, Some(6)),
                of(&ci, 2, Some(4)),
                of(&second, 7, None)
            ]
        );
        assert_eq!(
            (chain.devices[2].caps.to_string().as_str(), chain.devices[2].not_after),
            ("send", 99)
        );
        assert_eq!(chain.active().count(), 1);
        account.close(&second);
        let chain = judge(&account).unwrap();
        assert_eq!((chain.ended, chain.active().count()), (Some(End::Closed), 0));
    }

    /// What is done to an account of person 1 with recovery key 2, and the rule that it breaks.
    type Breach = (&'static str, Violation, fn(&mut Account));

    const BREACHES_BY_DEVICES: &[Breach] = &[
        ("a stranger adds", Violation::Signer, |a| a.add(&Person::new(9), &Person::new(3), 7)),
        ("no admin adds", Violation::NotAdmin, |a| {
            a.add(&Person::new(1), &Person::new(3), 6);
            a.add(&Person::new(3), &Person::new(4), 6);
        }),
        ("no admin revokes another", Violation::NotAdmin, |a| {
            a.add(&Person::new(1), &Person::new(3), 6);
            a.revoke(&Person::new(3), &Person::new(1));
        }),
        ("a revoked admin adds", Violation::Signer, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.revoke(&Person::new(3), &Person::new(1));
            a.add(&Person::new(1), &Person::new(4), 7);
        }),
        ("a lowered admin adds", Violation::NotAdmin, |a| {
            a.update(&Person::new(1), &Person::new(1), 6, 0);
            a.add(&Person::new(1), &Person::new(4), 7);
        }),
        ("a revoked device returns", Violation::Returned, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.revoke(&Person::new(1), &Person::new(3));
            a.add(&Person::new(1), &Person::new(3), 7);
        }),
        ("a device comes twice", Violation::Returned, |a| {
            a.add(&Person::new(1), &Person::new(1), 7);
        }),
        ("a recovered device returns", Violation::Returned, |a| {
            a.recover(&Person::new(2), &Person::new(1));
        }),
    ];

    const OTHER_BREACHES: &[Breach] = &[
        ("a device that is not there is revoked", Violation::NoDevice, |a| {
            a.revoke(&Person::new(1), &Person::new(3));
        }),
        ("a device that is not there is updated", Violation::NoDevice, |a| {
            a.update(&Person::new(1), &Person::new(3), 2, 0);
        }),
        ("a revoked device is revoked again", Violation::NoDevice, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.revoke(&Person::new(1), &Person::new(3));
            a.revoke(&Person::new(1), &Person::new(3));
        }),
        ("a revoked device is updated", Violation::NoDevice, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.revoke(&Person::new(1), &Person::new(3));
            a.update(&Person::new(1), &Person::new(3), 2, 0);
        }),
        ("another recovery key recovers", Violation::Signature, |a| {
            a.recover(&Person::new(8), &Person::new(3));
        }),
        ("a replaced recovery key recovers", Violation::Signature, |a| {
            a.set_recovery(&Person::new(1), &Person::new(2), &Person::new(6));
            a.recover(&Person::new(2), &Person::new(3));
        }),
        ("the old recovery key does not accept", Violation::Acceptance, |a| {
            a.set_recovery(&Person::new(1), &Person::new(8), &Person::new(6));
        }),
        ("something follows a close", Violation::Ended, |a| {
            a.close(&Person::new(1));
            a.add(&Person::new(1), &Person::new(3), 7);
        }),
        ("somebody else resets", Violation::Signature, |a| a.reset(&Person::new(9), [7; 32])),
        ("something follows a reset", Violation::Ended, |a| {
            a.reset(&Person::log(), [7; 32]);
            a.add(&Person::new(1), &Person::new(3), 7);
        }),
        ("a chain forks", Violation::Previous, |a| {
            let fork = a.clone();
            a.add(&Person::new(1), &Person::new(3), 7);
            let mut fork = fork;
            fork.add(&Person::new(1), &Person::new(4), 7);
            a.events.extend(fork.events.pop());
        }),
        ("an event comes twice", Violation::Previous, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.events.push(a.events[1].clone());
        }),
        ("an event is left out", Violation::Sequence { expected: 1, found: 2 }, |a| {
            a.add(&Person::new(1), &Person::new(3), 7);
            a.add(&Person::new(1), &Person::new(4), 7);
            a.events.remove(1);
        }),
        ("a second genesis", Violation::SecondAccount, |a| {
            a.events.extend(Account::new("alice", &Person::new(5), &Person::new(6)).events);
        }),
    ];

    #[test]
    fn each_rule_is_a_violation_of_its_own() {
        for (what, violation, breach) in BREACHES_BY_DEVICES.iter().chain(OTHER_BREACHES) {
            let mut account = alice();
            breach(&mut account);
            assert_eq!(judge(&account), Err(*violation), "{what}");
        }
    }

    #[test]
    fn no_signature_stands_for_another() {
        let mut account = alice();
        account.add(&Person::new(1), &Person::new(3), 7);
        let good = account.events[1].clone();
        type Spoil = fn(&mut SignedEvent);
        let spoiled: [(&str, Violation, Spoil); 6] = [
            ("no signature", Violation::Signature, |e| e.sig.clear()),
            ("a flipped signature", Violation::Signature, |e| e.sig[5] ^= 1),
            ("no acceptance", Violation::Acceptance, |e| e.accept_sig.clear()),
            ("a longer acceptance", Violation::Acceptance, |e| e.accept_sig.push(0)),
            ("swapped", Violation::Signature, |e| std::mem::swap(&mut e.sig, &mut e.accept_sig)),
            ("another clock", Violation::Signature, |e| {
                let time = 1_700_000_000_000u64.to_be_bytes();
                let at = e.event.windows(8).position(|window| window == time).unwrap();
                e.event[at] ^= 1;
            }),
        ];
        for (what, violation, spoil) in spoiled {
            account.events[1] = good.clone();
            spoil(&mut account.events[1]);
            assert_eq!(judge(&account), Err(violation), "{what}");
        }
        // An acceptance where there is none to give.
        let mut account = alice();
        account.revoke(&Person::new(1), &Person::new(1));
        account.events[1].accept_sig = account.events[0].accept_sig.clone();
        assert_eq!(judge(&account), Err(Violation::Acceptance));
    }

    #[test]
    fn a_genesis_is_its_devices_own_and_first() {
        let (device, recovery) = (Person::new(1), Person::new(2));
        let body = |caps, conversations: Vec<u8>| {
            let device = DeviceBody { conversations, ..DeviceBody::of(&device, caps) };
            enc("nexo/1/body/genesis", &[b"alice", &device.encode(), &recovery.public()])
        };
        let good = body(7, vec![]);
        let by = device.device_id();
        let cases = [
            (Violation::Origin, raw(b"gol", ZEROS, 0, ZEROS, 1, by, &good)),
            (Violation::Genesis, raw(ORIGIN, [1; 32], 0, ZEROS, 1, by, &good)),
            (Violation::Genesis, raw(ORIGIN, ZEROS, 1, ZEROS, 1, by, &good)),
            (Violation::Genesis, raw(ORIGIN, ZEROS, 0, [1; 32], 1, by, &good)),
            (Violation::Genesis, raw(ORIGIN, ZEROS, 0, ZEROS, 1, ZEROS, &good)),
            (Violation::FirstDevice, raw(ORIGIN, ZEROS, 0, ZEROS, 1, by, &body(6, vec![]))),
            (Violation::FirstDevice, raw(ORIGIN, ZEROS, 0, ZEROS, 1, by, &body(7, vec![0; 32]))),
            (
                Violation::NotGenesis,
                raw(ORIGIN, ZEROS, 0, ZEROS, 8, by, &enc("nexo/1/body/close", &[])),
            ),
        ];
        let begin = |event: Vec<u8>, by: &Person, handle: &str| {
            let signed = seal(event, by, Some(&device));
            Chain::begin(&log_key(), &Handle::parse(handle).unwrap(), 0, &signed)
        };
        for (violation, event) in cases {
            assert_eq!(begin(event, &device, "alice"), Err(violation));
        }
        let event = raw(ORIGIN, ZEROS, 0, ZEROS, 1, by, &good);
        assert_eq!(begin(event.clone(), &device, "bob"), Err(Violation::Handle));
        assert_eq!(begin(event.clone(), &recovery, "alice"), Err(Violation::Signature));
        assert!(begin(event, &device, "alice").is_ok());
    }

    #[test]
    fn events_of_other_logs_and_accounts_do_not_follow() {
        let account = alice();
        let genesis = account.events[0].event_hash();
        let by = Person::new(1);
        let body = DeviceBody::of(&Person::new(3), 7).encode();
        for (origin, of, violation) in
            [(&b"gol"[..], genesis, Violation::Origin), (ORIGIN, [1; 32], Violation::Account)]
        {
            let mut account = account.clone();
            let event = raw(origin, of, 1, genesis, 2, by.device_id(), &body);
            account.events.push(seal(event, &by, Some(&Person::new(3))));
            assert_eq!(judge(&account), Err(violation));
        }
        // A device cannot stand where the recovery key or the operator signs.
        let reset = enc("nexo/1/body/reset", &[&[7; 32]]);
        for (kind, body, person, accepted) in
            [(5, &body, Person::new(2), Some(Person::new(3))), (6, &reset, Person::log(), None)]
        {
            for (signer, outcome) in [(by.device_id(), Some(Violation::Signer)), (ZEROS, None)] {
                let mut account = account.clone();
                let event = raw(ORIGIN, genesis, 1, genesis, kind, signer, body);
                account.events.push(seal(event, &person, accepted.as_ref()));
                assert_eq!(judge(&account).err(), outcome, "type {kind}");
            }
        }
    }
}
