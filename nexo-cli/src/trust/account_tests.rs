//! Bundles under an honest relay and under one that lies.

use nexo_schema::http::{LoggedEvent, OneTimeStatus, SignedEvent};

use super::*;
use crate::e2ee::prekey::PrekeyRefused;
use crate::e2ee::{FallbackSecret, SignedFallback, Validity};
use crate::identity::Identity;
use crate::identity::tests::identity;
use crate::trust::testlog::TestLog;
use crate::vault::Vault;

fn bundle(log: &TestLog, who: &Identity) -> Bundle {
    let leaf = who.genesis.leaf(log.origin(), &who.e2ee_handle().unwrap());
    let index = log.append(&leaf);
    log.append(b"something else");
    shown(log, who, index)
}

fn shown(log: &TestLog, who: &Identity, index: u64) -> Bundle {
    let secret = FallbackSecret::from_seeds(1, [3; 32], [4; 64]);
    let validity = Validity::longest(log.now() - 60).unwrap();
    let fpk = SignedFallback::sign(&who.device, log.origin(), &secret, validity);
    Bundle {
        handle: who.handle.clone(),
        account_id: wire::account_out(who.account),
        events: vec![LoggedEvent {
            signed: SignedEvent {
                event: to_base64(&who.genesis.event),
                sig: to_base64(&who.genesis.signature),
                accept_sig: to_base64(&who.genesis.accept_signature),
            },
            sth_index: index + 1,
            inclusion: log.inclusion(index, log.size()).iter().map(|h| to_base64(h)).collect(),
        }],
        head: log.note(log.size()),
        consistency: None,
        devices: vec![DeviceBundle {
            device_id: wire::device_out(who.device_id()),
            x25519_pub: to_base64(who.device.public().dh_public().as_bytes()),
            fpk: Some(wire::fallback_out(&fpk)),
            otk: None,
            otk_status: OneTimeStatus::NotAsked,
        }],
    }
}

async fn judged(log: &TestLog, bundle: &Bundle, asked: &str) -> Result<Peer, PeerError> {
    let (vault, key) = (Vault::in_memory().unwrap(), log.key());
    let trust = LogTrust::new(log, &vault, &key, None, None);
    let handle = Handle::parse(asked).unwrap();
    let (peer, _) = verify_bundle(&trust, bundle, Asked::Handle(&handle), 0, log.now()).await?;
    Ok(peer)
}

#[tokio::test]
async fn an_honest_bundle_makes_a_recipient() {
    let log = TestLog::new("relay.example.test");
    let bob = identity(&log, "bob", 2);
    let bundle = bundle(&log, &bob);
    let (vault, key) = (Vault::in_memory().unwrap(), log.key());
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let asked = Asked::Account(bob.account);
    let (peer, _) = verify_bundle(&trust, &bundle, asked, 0, log.now()).await.unwrap();
    let peer = pin(&trust, peer, None, log.now()).await.unwrap();
    assert!(peer.pinned);
    let recipient = recipient(&trust, &peer).unwrap();
    assert_eq!(recipient.account.id, bob.account);
    assert_eq!(recipient.fallback.device(), &bob.device.public());
}

#[tokio::test]
async fn b_every_lie_about_an_account_is_refused() {
    let log = TestLog::new("relay.example.test");
    let (bob, eve) = (identity(&log, "bob", 2), identity(&log, "bob", 3));
    let honest = bundle(&log, &bob);
    assert!(judged(&log, &honest, "bob").await.is_ok());
    type Lie<'a> = (&'a str, Box<dyn Fn(&mut Bundle) + 'a>);
    let lies: Vec<Lie<'_>> = vec![
        (
            "another account's id",
            Box::new(|b| b.account_id = wire::account_out(AccountId::from_bytes([1; 32]))),
        ),
        ("no chain", Box::new(|b| b.events.clear())),
        ("a longer chain", Box::new(|b| b.events.push(b.events[0].clone()))),
        ("another place", Box::new(|b| b.events[0].sth_index += 1)),
        ("no path", Box::new(|b| b.events[0].inclusion.clear())),
        ("a forged event", Box::new(|b| b.events[0].signed.sig = to_base64(&[0; 64]))),
        ("no acceptance", Box::new(|b| b.events[0].signed.accept_sig = to_base64(&[0; 64]))),
        (
            "a foreign device",
            Box::new(|b| b.devices[0].device_id = wire::device_out(eve.device_id())),
        ),
        (
            "an extra device",
            Box::new(|b| {
                let mut more = b.devices[0].clone();
                more.device_id = wire::device_out(eve.device_id());
                b.devices.push(more);
            }),
        ),
        ("a wrong x25519", Box::new(|b| b.devices[0].x25519_pub = to_base64(&[9; 32]))),
        ("a foreign head", Box::new(|b| b.head = TestLog::new("x.test").note(0))),
    ];
    for (name, lie) in lies {
        let mut bundle = honest.clone();
        lie(&mut bundle);
        assert!(judged(&log, &bundle, "bob").await.is_err(), "{name}");
    }
    assert!(judged(&log, &honest, "alice").await.is_err(), "somebody else");
    let unlogged = shown(&log, &eve, 0);
    assert!(judged(&log, &unlogged, "bob").await.is_err(), "an account that is not in the log");
}

#[tokio::test]
async fn a_pinned_handle_moves_only_when_told_to() {
    let log = TestLog::new("relay.example.test");
    let (bob, eve) = (identity(&log, "bob", 2), identity(&log, "bob", 3));
    let (vault, key) = (Vault::in_memory().unwrap(), log.key());
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let peers = [bundle(&log, &bob), bundle(&log, &eve)];
    let mut verified = Vec::new();
    for bundle in &peers {
        let asked = Asked::Account(wire::account(bundle.account_id));
        verified.push(verify_bundle(&trust, bundle, asked, 0, log.now()).await.unwrap().0);
    }
    let (first, second) = (verified[0].clone(), verified[1].clone());
    let handle = Handle::parse("bob").unwrap();
    let pinned = || vault.read(|tx| tx.pinned_peer(&handle)).unwrap().unwrap().account;
    pin(&trust, first.clone(), None, log.now()).await.unwrap();
    let changed = pin(&trust, second.clone(), None, log.now()).await;
    assert!(matches!(changed, Err(PeerError::Changed { .. })));
    let expected = pin(&trust, second.clone(), Some(bob.account), log.now()).await;
    assert!(matches!(expected, Err(PeerError::NotExpected { .. })));
    assert_eq!(pinned(), bob.account);
    assert!(known_sender(&trust, bob.account).unwrap().is_some());
    pin(&trust, second, Some(eve.account), log.now()).await.unwrap();
    assert_eq!(pinned(), eve.account);
    let left = known_sender(&trust, bob.account);
    assert!(matches!(left, Err(PeerError::Changed { .. })), "nor does it speak under that handle");
    pin(&trust, first, Some(bob.account), log.now()).await.unwrap();
    assert_eq!(pinned(), bob.account, "and back");
}

#[tokio::test]
async fn an_expired_or_foreign_prekey_is_not_used() {
    let log = TestLog::new("relay.example.test");
    let bob = identity(&log, "bob", 2);
    let bundle = bundle(&log, &bob);
    let (vault, key) = (Vault::in_memory().unwrap(), log.key());
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let asked = Asked::Account(bob.account);
    let (peer, _) = verify_bundle(&trust, &bundle, asked, 0, log.now()).await.unwrap();
    let without = Peer { fallback: None, ..peer.clone() };
    assert!(matches!(recipient(&trust, &without), Err(PeerError::NoPrekey(_))));
    let mut forged = peer.clone();
    forged.fallback.as_mut().unwrap().prekey.sig = to_base64(&[0; 64]);
    assert!(matches!(recipient(&trust, &forged), Err(PeerError::Prekey { .. })));
    // 37 days later by the log's own clock.
    log.set_now(log.now() + 37 * 86_400);
    trust.fetch_head(log.now()).await.unwrap();
    let expired = recipient(&trust, &peer);
    let reason = PrekeyRefused::Expired { not_after: log.now() - 60 };
    assert!(matches!(expired, Err(PeerError::Prekey { reason: r, .. }) if r == reason));
}
