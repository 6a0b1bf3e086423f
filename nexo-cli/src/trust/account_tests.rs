//! Bundles under an honest relay and under one that lies.

use nexo_schema::bytes::to_base64;
use nexo_schema::change::Change;
use nexo_schema::http::{DeviceBundle, LoggedEvent, OneTimeStatus, SignedEvent as Served};
use nexo_schema::sigchain::{self, caps};

use super::*;
use crate::e2ee::event::{Place, accept, propose};
use crate::e2ee::prekey::PrekeyRefused;
use crate::e2ee::{DeviceSecret, FallbackSecret, SignedFallback, Validity};
use crate::identity::Identity;
use crate::identity::tests::{first_event, identity};
use crate::trust::bundle::leaf;
use crate::trust::testlog::TestLog;
use crate::vault::{ChainEvent, SignedEvent, Vault};

/// An account as the log and the relay have it.
struct Owner {
    identity: Identity,
    events: Vec<ChainEvent>,
    /// The keys of its devices that have prekeys.
    devices: Vec<DeviceSecret>,
}

impl Owner {
    fn new(log: &TestLog, handle: &str, seed: u8) -> Self {
        let identity = identity(log, handle, seed);
        let signed = first_event(&identity);
        let devices = vec![DeviceSecret::from_seed(&[seed; 32])];
        let mut owner = Self { identity, events: Vec::new(), devices };
        owner.log(log, signed);
        owner
    }

    fn log(&mut self, log: &TestLog, signed: SignedEvent) {
        let index = log.append(&leaf(log.origin(), &self.identity.handle, &signed));
        self.events.push(ChainEvent { signed, sth_index: index + 1 });
    }

    /// Logs an event of the first device, accepted by a key if it needs that.
    fn change(&mut self, log: &TestLog, change: &Change<'_>, new: Option<&DeviceSecret>) {
        let signed = self.signed(log, &self.identity.device, change, new);
        self.log(log, signed);
    }

    fn signed(
        &self,
        log: &TestLog,
        by: &DeviceSecret,
        change: &Change<'_>,
        new: Option<&DeviceSecret>,
    ) -> SignedEvent {
        let place = Place {
            origin: log.origin(),
            account: self.identity.account,
            seq: self.events.len() as u64,
            prev: self.events.last().unwrap().signed.event_hash(),
            time_ms: 1,
        };
        let drawn = propose(&place, by, change);
        let accept_sig = new.map_or(Vec::new(), |new| accept(new, &drawn.event).to_vec());
        SignedEvent { event: drawn.event, sig: drawn.signature.to_vec(), accept_sig }
    }

    /// Adds a device with a key of one byte repeated.
    fn add(&mut self, log: &TestLog, seed: u8, caps: u16, not_after: u64) -> DeviceId {
        let new = DeviceSecret::from_seed(&[seed; 32]);
        let key = *new.public().as_bytes();
        let device =
            sigchain::Device { key, caps, not_after, name: [0; 32], conversations: Vec::new() };
        self.change(log, &Change::Add(device), Some(&new));
        let id = new.public().device_id();
        self.devices.push(new);
        id
    }

    fn revoke(&mut self, log: &TestLog, device: DeviceId) {
        self.change(log, &Change::Revoke { device: *device.as_bytes(), reason: b"" }, None);
        self.devices.retain(|one| one.public().device_id() != device);
    }

    /// What the relay shows now.
    fn bundle(&self, log: &TestLog) -> Bundle {
        let size = log.size();
        let path = |index| log.inclusion(index, size).iter().map(|h| to_base64(h)).collect();
        let event = |one: &ChainEvent| LoggedEvent {
            signed: Served {
                event: to_base64(&one.signed.event),
                sig: to_base64(&one.signed.sig),
                accept_sig: to_base64(&one.signed.accept_sig),
            },
            sth_index: one.sth_index,
            inclusion: path(one.sth_index - 1),
        };
        Bundle {
            handle: self.identity.handle.clone(),
            account_id: wire::account_out(self.identity.account),
            events: self.events.iter().map(event).collect(),
            head: log.note(size),
            consistency: None,
            devices: self.devices.iter().map(|device| served(log, device)).collect(),
        }
    }
}

fn served(log: &TestLog, device: &DeviceSecret) -> DeviceBundle {
    let secret = FallbackSecret::from_seeds(1, [3; 32], [4; 64]);
    let validity = Validity::longest(log.now() - 60).unwrap();
    let fpk = SignedFallback::sign(device, log.origin(), &secret, validity);
    DeviceBundle {
        device_id: wire::device_out(device.public().device_id()),
        x25519_pub: to_base64(device.public().dh_public().as_bytes()),
        fpk: Some(wire::fallback_out(&fpk)),
        otk: None,
        otk_status: OneTimeStatus::NotAsked,
    }
}

/// A client with a state, before the log of a test.
struct Client<'a> {
    log: &'a TestLog,
    vault: Vault,
    key: crate::trust::LogKey,
}

impl<'a> Client<'a> {
    fn new(log: &'a TestLog) -> Self {
        Self { log, vault: Vault::in_memory().unwrap(), key: log.key() }
    }

    fn trust(&self) -> LogTrust<'_, TestLog> {
        LogTrust::new(self.log, &self.vault, &self.key, None, None)
    }

    /// Judges and pins what is shown of a handle.
    async fn sees(
        &self,
        bundle: &Bundle,
        asked: &str,
        expect: Option<AccountId>,
    ) -> Result<Peer, PeerError> {
        let (trust, handle) = (self.trust(), Handle::parse(asked).unwrap());
        let held = trust.held_size()?;
        let verified =
            verify_bundle(&trust, bundle, Asked::Handle(&handle), held, self.log.now()).await?;
        pin(&trust, verified, expect, self.log.now()).await
    }

    async fn recipient(&self, bundle: &Bundle) -> Result<Recipient, PeerError> {
        let peer = self.sees(bundle, bundle.handle.as_str(), None).await?;
        recipient(&self.trust(), &peer)
    }
}

fn log_with_noise() -> TestLog {
    let log = TestLog::new("relay.example.test");
    log.append(b"something else");
    log
}

#[tokio::test]
async fn every_receiving_device_of_the_chain_is_addressed() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    let client = Client::new(&log);
    let alone = client.recipient(&bob.bundle(&log)).await.unwrap();
    assert_eq!(alone.account.id, bob.identity.account);
    assert_eq!(alone.devices[0].fallback.device(), &bob.identity.device.public());
    let phone = bob.add(&log, 3, caps::SEND | caps::RECV, 0);
    bob.add(&log, 4, caps::SEND | caps::STATELESS, 0);
    bob.add(&log, 5, caps::RECV, log.now());
    let unready = bob.add(&log, 6, caps::RECV, 0);
    let mut bundle = bob.bundle(&log);
    bundle.devices.retain(|d| d.device_id != wire::device_out(unready));
    let found = client.recipient(&bundle).await.unwrap();
    let ids: Vec<DeviceId> = found.devices.iter().map(Addressee::id).collect();
    assert_eq!(ids, [bob.identity.device_id(), phone], "not the sender, not the expired one");
    assert_eq!(found.unreachable, [unready]);
    assert_eq!(found.account.length, 5);
}

#[tokio::test]
async fn b13_every_lie_about_an_account_is_refused() {
    let log = log_with_noise();
    let (mut bob, eve) = (Owner::new(&log, "bob", 2), Owner::new(&log, "bob", 3));
    bob.add(&log, 7, caps::RECV, 0);
    log.append(b"more");
    let honest = bob.bundle(&log);
    assert!(Client::new(&log).sees(&honest, "bob", None).await.is_ok());
    type Lie<'a> = (&'a str, Box<dyn Fn(&mut Bundle) + 'a>);
    let foreign = wire::device_out(eve.identity.device_id());
    let lies: Vec<Lie<'_>> = vec![
        (
            "another account's id",
            Box::new(|b| b.account_id = wire::account_out(AccountId::from_bytes([1; 32]))),
        ),
        ("no chain", Box::new(|b| b.events.clear())),
        ("no beginning", Box::new(|b| drop(b.events.remove(0)))),
        ("an event twice", Box::new(|b| b.events.push(b.events[1].clone()))),
        ("another order", Box::new(|b| b.events.swap(0, 1))),
        ("another place", Box::new(|b| b.events[1].sth_index += 1)),
        ("no path", Box::new(|b| b.events[1].inclusion.clear())),
        ("a forged event", Box::new(|b| b.events[1].signed.sig = to_base64(&[0; 64]))),
        ("no acceptance", Box::new(|b| b.events[0].signed.accept_sig = to_base64(&[0; 64]))),
        ("a foreign device", Box::new(|b| b.devices[0].device_id = foreign.clone())),
        ("a wrong x25519", Box::new(|b| b.devices[0].x25519_pub = to_base64(&[9; 32]))),
        ("a foreign head", Box::new(|b| b.head = TestLog::new("x.test").note(0))),
    ];
    for (name, lie) in lies {
        let mut bundle = honest.clone();
        lie(&mut bundle);
        assert!(Client::new(&log).sees(&bundle, "bob", None).await.is_err(), "{name}");
    }
    assert!(Client::new(&log).sees(&honest, "alice", None).await.is_err(), "somebody else");
    // What the relay computes of a key is compared and never used.
    let mut wrong = honest.clone();
    wrong.devices[0].x25519_pub = to_base64(&[9; 32]);
    let refused = Client::new(&log).sees(&wrong, "bob", None).await;
    assert!(matches!(refused, Err(PeerError::WrongX25519(_))), "{refused:?}");
}

#[tokio::test]
async fn e3_e4_events_that_break_the_rules_are_refused_though_they_are_logged() {
    let log = log_with_noise();
    let new = DeviceSecret::from_seed(&[9; 32]);
    let key = *new.public().as_bytes();
    let add = Change::Add(sigchain::Device {
        key,
        caps: caps::RECV,
        not_after: 0,
        name: [0; 32],
        conversations: Vec::new(),
    });
    for case in ["unaccepted", "foreign", "not an admin", "revoked"] {
        let mut bob = Owner::new(&log, "bob", 2);
        let plain = bob.add(&log, 5, caps::SEND | caps::RECV, 0);
        let plain_key = DeviceSecret::from_seed(&[5; 32]);
        let signed = match case {
            "unaccepted" => bob.signed(&log, &bob.identity.device, &add, None),
            "foreign" => bob.signed(&log, &DeviceSecret::from_seed(&[8; 32]), &add, Some(&new)),
            "not an admin" => bob.signed(&log, &plain_key, &add, Some(&new)),
            _ => {
                bob.revoke(&log, plain);
                bob.signed(&log, &plain_key, &add, Some(&new))
            }
        };
        bob.log(&log, signed);
        let refused = Client::new(&log).sees(&bob.bundle(&log), "bob", None).await;
        assert!(matches!(refused, Err(PeerError::Chain { .. })), "{case}: {refused:?}");
    }
}

#[tokio::test]
async fn e5_an_event_of_another_account_is_refused() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    // The same key has another account, whose event is replayed here.
    let mut other = Owner::new(&log, "other", 2);
    other.add(&log, 5, caps::RECV, 0);
    bob.log(&log, other.events[1].signed.clone());
    let refused = Client::new(&log).sees(&bob.bundle(&log), "bob", None).await;
    assert!(matches!(refused, Err(PeerError::Chain { .. })), "{refused:?}");
}

#[tokio::test]
async fn e7_a_revocation_that_was_seen_cannot_be_hidden_again() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    let phone = bob.add(&log, 3, caps::SEND | caps::RECV, 0);
    let before = (bob.events.clone(), bob.devices.len());
    let client = Client::new(&log);
    let early = bob.bundle(&log);
    bob.revoke(&log, phone);
    assert_eq!(client.recipient(&bob.bundle(&log)).await.unwrap().devices.len(), 1);
    // Under the newest head the shorter chain is a lie.
    bob.events = before.0;
    let hidden = client.sees(&bob.bundle(&log), "bob", None).await;
    assert!(
        matches!(hidden, Err(PeerError::Withheld { known: 3, shown: 2, .. })),
        "{hidden:?}, {} devices",
        before.1
    );
    // Under the head of then it is merely old: an answer that was overtaken.
    let overtaken = client.recipient(&early).await.unwrap();
    assert_eq!(overtaken.account.length, 3, "and what is known stays known");
}

#[tokio::test]
async fn e7_what_an_account_said_of_itself_has_to_be_shown() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    let phone = bob.add(&log, 3, caps::SEND | caps::RECV, 0);
    let client = Client::new(&log);
    let before = client.recipient(&bob.bundle(&log)).await.unwrap().account;
    let trust = client.trust();
    let early = Told { seq: 1, hash: bob.events[1].signed.event_hash() };
    client.vault.write(|tx| tx.set_told(before.id, early)).await.unwrap();
    assert_eq!(hidden(&trust, &before).await.unwrap(), None, "that is known");
    assert_eq!(client.vault.read(|tx| tx.told(before.id)).unwrap(), None, "and forgotten");
    // An event that is not there yet, and an event of which there is another one.
    bob.revoke(&log, phone);
    let said = Told { seq: 2, hash: bob.events[2].signed.event_hash() };
    let other = Told { seq: 3, hash: [9; 32] };
    for told in [said, other] {
        client.vault.write(|tx| tx.set_told(before.id, told)).await.unwrap();
        assert_eq!(hidden(&trust, &before).await.unwrap(), Some(told));
    }
    client.vault.write(|tx| tx.forget_told(before.id)).await.unwrap();
    client.vault.write(|tx| tx.set_told(before.id, said)).await.unwrap();
    let after = client.recipient(&bob.bundle(&log)).await.unwrap().account;
    assert_eq!(hidden(&trust, &after).await.unwrap(), None);
    let forked = Told { seq: 2, hash: [9; 32] };
    client.vault.write(|tx| tx.set_told(after.id, forked)).await.unwrap();
    assert_eq!(hidden(&trust, &after).await.unwrap(), Some(forked), "another event");
}

#[tokio::test]
async fn e2_a_forked_chain_is_refused() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    let client = Client::new(&log);
    let mut fork = Owner::new(&log, "bob", 2);
    fork.events = bob.events.clone();
    bob.add(&log, 3, caps::RECV, 0);
    client.recipient(&bob.bundle(&log)).await.unwrap();
    fork.add(&log, 4, caps::RECV, 0);
    let forked = client.sees(&fork.bundle(&log), "bob", None).await;
    assert!(matches!(forked, Err(PeerError::Forked { seq: 1, .. })), "{forked:?}");
}

#[tokio::test]
async fn e1_a_pinned_handle_moves_only_when_told_to() {
    let log = log_with_noise();
    let (bob, eve) = (Owner::new(&log, "bob", 2), Owner::new(&log, "bob", 3));
    let (first, second) = (bob.bundle(&log), eve.bundle(&log));
    let client = Client::new(&log);
    let handle = Handle::parse("bob").unwrap();
    let (trust, now) = (client.trust(), log.now());
    let pinned = || client.vault.read(|tx| tx.pinned_peer(&handle)).unwrap().unwrap().account;
    client.sees(&first, "bob", None).await.unwrap();
    let changed = client.sees(&second, "bob", None).await;
    assert!(matches!(changed, Err(PeerError::Changed { .. })));
    let expected = client.sees(&second, "bob", Some(bob.identity.account)).await;
    assert!(matches!(expected, Err(PeerError::NotExpected { .. })));
    assert_eq!(pinned(), bob.identity.account);
    assert!(known_account(&trust, bob.identity.account, now).unwrap().is_some());
    client.sees(&second, "bob", Some(eve.identity.account)).await.unwrap();
    assert_eq!(pinned(), eve.identity.account);
    let left = known_account(&trust, bob.identity.account, now);
    assert!(matches!(left, Err(PeerError::Changed { .. })), "nor does it speak under that handle");
    client.sees(&first, "bob", Some(bob.identity.account)).await.unwrap();
    assert_eq!(pinned(), bob.identity.account, "and back");
}

#[tokio::test]
async fn e6_a_sender_is_judged_where_its_message_stands() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    let phone = bob.add(&log, 3, caps::SEND | caps::RECV, log.now() + 100);
    let joined = log.size();
    for n in 0..3u8 {
        log.append(&[n]);
    }
    let quiet = log.size();
    bob.change(
        &log,
        &Change::Update { device: *phone.as_bytes(), caps: caps::RECV, not_after: 0 },
        None,
    );
    log.append(b"between");
    bob.revoke(&log, phone);
    let revoked = log.size();
    let account = Client::new(&log).recipient(&bob.bundle(&log)).await.unwrap().account;
    let judged = |place, time| {
        sender_at(account.clone(), phone, place, time).map(drop).map_err(|e| match e {
            PeerError::NotCapable { what, .. } => what,
            other => panic!("{other}"),
        })
    };
    let now = log.now();
    assert_eq!(judged(joined, now), Err("joined the account later"));
    assert_eq!(judged(joined + 1, now), Ok(()));
    assert_eq!(judged(quiet, now), Ok(()), "it was revoked later");
    assert_eq!(judged(quiet, now + 100), Err("has expired"));
    assert_eq!(judged(quiet + 2, now), Err("may not send"));
    assert_eq!(judged(revoked, now), Err("was revoked before"));
    assert_eq!(judged(revoked + 9, now), Err("was revoked before"));
    let stranger = DeviceId::from_bytes([1; 32]);
    assert!(sender_at(account, stranger, quiet, now).is_err());
}

#[tokio::test]
async fn b6_an_expired_or_foreign_prekey_is_not_used() {
    let log = log_with_noise();
    let bob = Owner::new(&log, "bob", 2);
    let client = Client::new(&log);
    let peer = client.sees(&bob.bundle(&log), "bob", None).await.unwrap();
    let trust = client.trust();
    let without = Peer { served: None, ..peer.clone() };
    let nobody = recipient(&trust, &without).unwrap();
    assert!(nobody.devices.is_empty());
    assert!(matches!(unreachable(&nobody.account), PeerError::NoPrekey(_)));
    let mut forged = peer.clone();
    forged.served.as_mut().unwrap().devices[0].fpk.as_mut().unwrap().sig = to_base64(&[0; 64]);
    assert!(matches!(recipient(&trust, &forged), Err(PeerError::Prekey { .. })));
    // 37 days later by the log's own clock.
    log.set_now(log.now() + 37 * 86_400);
    trust.fetch_head(log.now()).await.unwrap();
    let expired = recipient(&trust, &peer);
    let reason = PrekeyRefused::Expired { not_after: log.now() - 60 };
    assert!(matches!(expired, Err(PeerError::Prekey { reason: r, .. }) if r == reason));
}

#[tokio::test]
async fn nobody_is_written_to_whose_account_has_ended() {
    let log = log_with_noise();
    let mut bob = Owner::new(&log, "bob", 2);
    bob.change(&log, &Change::Close, None);
    bob.devices.clear();
    let ended = Client::new(&log).recipient(&bob.bundle(&log)).await.unwrap();
    assert!(ended.devices.is_empty() && ended.account.ended == Some(crate::trust::End::Closed));
    assert!(matches!(unreachable(&ended.account), PeerError::Ended(_)));
}

#[tokio::test]
async fn policies_say_whether_a_handle_may_move() {
    use crate::trust::policy::{PinMode, PinPolicy};
    let log = log_with_noise();
    let (bob, eve) = (Owner::new(&log, "bob", 2), Owner::new(&log, "bob", 3));
    let (first, second) = (bob.bundle(&log), eve.bundle(&log));
    let client = Client::new(&log);
    let handle = Handle::parse("bob").unwrap();
    let with = |mode| client.trust().with_policy(PinPolicy { mode, pins: Vec::new() });
    let strict = expected(&with(PinMode::Pinned), &handle, None);
    assert!(matches!(strict, Err(PeerError::NotPinned(_))));
    client.sees(&first, "bob", None).await.unwrap();
    let tofu = with(PinMode::Tofu);
    let asked = Asked::Handle(&handle);
    let verified = verify_bundle(&tofu, &second, asked, 0, log.now()).await.unwrap();
    pin(&tofu, verified.clone(), None, log.now()).await.unwrap();
    let told = tofu.take_notices();
    assert!(told[0].starts_with("bob is another account now"), "{told:?}");
    assert!(tofu.take_notices().is_empty(), "once");
    // A person's word is above every policy.
    let bobs = bob.identity.account;
    client
        .vault
        .write(|tx| tx.name_account(&handle, bobs, 1))
        .await
        .map_err(PeerError::from)
        .unwrap();
    let said = expected(&tofu, &handle, None).unwrap();
    assert_eq!(said, Some(bobs));
    let refused = pin(&tofu, verified, said, log.now()).await;
    assert!(matches!(refused, Err(PeerError::NotExpected { .. })));
    assert_eq!(expected(&with(PinMode::Pinned), &handle, None).unwrap(), Some(bobs));
}
