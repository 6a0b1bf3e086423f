//! Makes the fuzzer's seeds again, after a change of format:
//!
//! ```text
//! cargo test -p nexo-cli --test e2ee seeds -- --ignored
//! ```
//!
//! Keys are those of `../../fuzz/inputs.rs` and of the fixture, which nobody uses.

use crate::corpus::inputs::{self, BODY, MESSAGE, NOW, ORIGIN};
use crate::node::Node;
use nexo_cli::api::RelayUrl;
use nexo_cli::e2ee::keys::RecoveryPublic;
use nexo_cli::e2ee::sigchain::NewAccount;
use nexo_cli::e2ee::{
    AccountId, Capabilities, ConversationId, DeviceSecret, EnvelopeHash, FallbackSecret, Handle,
    LocalParty, MessageId, OneShotRandomness, Outgoing, Recipient, SignedFallback, SignedGenesis,
    Tombstone, Validity, account_fingerprint, seal_oneshot,
};
use nexo_cli::identity::{Identity, ServerPin};
use nexo_cli::trust::LogKey;
use nexo_cli::wire;
use nexo_schema::bytes::{enc, to_base64};
use nexo_schema::change::Change;
use nexo_schema::http::SignedEvent;
use nexo_schema::ids::Origin;
use nexo_schema::sigchain::Event;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use zeroize::Zeroizing;

#[test]
#[ignore = "writes into the sources"]
fn seeds_are_made_again() {
    let mut seeds = texts();
    seeds.extend(messages());
    seeds.extend(accounts());
    seeds.extend(stored());
    for (target, name, bytes) in seeds {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

type Seed = (&'static str, &'static str, Vec<u8>);

fn texts() -> Vec<Seed> {
    let body = |ad: &str, from: &str| {
        json!({"v": 1, "t": "text", "text": "hi \u{1f980}", "ad": ad, "sent_at":
            "2026-11-23T10:00:00Z", "cseq": 1, "prev": null, "from": from, "sth": "note\n",
            "roster": []})
        .to_string()
        .into_bytes()
    };
    let ad = nexo_cli::body::AD;
    let hash = "00".repeat(32);
    let challenge =
        |expires: &str| format!("nexo/1/auth {ORIGIN} {hash} {hash} {expires} random").into_bytes();
    let account = account_fingerprint(AccountId::from_bytes([1; 32]));
    let page = |hash: &str| {
        json!({"items": [{"msg_id": "ab", "conv_id": "00".repeat(32), "sender_device": "tab",
            "cipher": "aGk=", "ad": {"x": 1}, "ts": NOW, "sth_index": 9, "inclusion": [hash]}],
            "next": 9, "more": false, "head": "relay\n9\n\n", "consistency": [hash, hash]})
        .to_string()
        .into_bytes()
    };
    let encoded = enc("nexo/1/fuzz", &[b"one", b"", &[0xff; 300]]);
    vec![
        ("body", "good-text", body(ad, "alice")),
        (
            "body",
            "good-unknown",
            br#"{"v":2,"t":"poll","ad":"{\"type\":\"text\"}","from":"alice"}"#.to_vec(),
        ),
        ("body", "bad-cleartext", body("{}", "alice")),
        ("body", "bad-sender", body(ad, "mallory")),
        ("body", "bad-json", b"{\"v\":1,".to_vec()),
        ("challenge", "good-line", challenge("1700000000")),
        ("challenge", "bad-zeros", challenge("01700000000")),
        ("enc", "good-three", encoded.clone()),
        ("enc", "bad-tail", [&encoded[..], b"\0"].concat()),
        ("enc", "bad-label", enc("nexo/1/other", &[b"one", b"", b"three"])),
        ("fingerprint", "good-one", account.clone().into_bytes()),
        ("fingerprint", "bad-case", account.to_uppercase().into_bytes()),
        ("proofs", "good-page", page(&to_base64(&[7; 32]))),
        ("proofs", "bad-hash", page(&to_base64(&[7; 31]))),
        ("proofs", "bad-many", {
            let path = vec![to_base64(&[7; 32]); 200];
            json!({"items": [], "next": 0, "more": false, "consistency": path}).to_string().into()
        }),
    ]
}

fn messages() -> Vec<Seed> {
    let (account, device) = inputs::sender();
    let (to, receiver, secret) = inputs::receiver();
    let fallback = SignedFallback::sign(&receiver, ORIGIN, &secret, validity());
    let fallback = fallback.verify(ORIGIN, &receiver.public(), NOW).unwrap();
    let conversation = ConversationId::direct(ORIGIN, account, to);
    let message = MessageId::from_bytes(MESSAGE);
    let mut count = 0;
    let randomness = OneShotRandomness::draw(1, |out| {
        count += 1;
        out.fill(count);
        Ok::<(), Infallible>(())
    });
    let local = LocalParty { account, secret: &device };
    let sent = seal_oneshot(
        &local,
        &Outgoing { origin: ORIGIN, conversation, message, body: BODY },
        &[Recipient { account: to, fallback: &fallback }],
        randomness.unwrap(),
    )
    .unwrap();
    let (sealed, packet) = (&sent.sealed, &sent.packets[0].1);
    let whole = |packet: &[u8], sealed: &[u8]| {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length(packet)[..], &length(sealed), packet, sealed].concat()
    };
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut session = Node::new(1, 1);
    let mut peer = Node::new(2, 2);
    let first = session.send(&peer, b"first", NOW);
    peer.take(&first, NOW).unwrap();
    let answer = peer.send(&session, b"answer", NOW);
    let mut unknown = packet.clone();
    unknown[1] = 9;
    let tombstone = Tombstone {
        origin: ORIGIN,
        conversation,
        target: message,
        target_envelope: EnvelopeHash::from_bytes([5; 32]),
        account,
        device: device.public().device_id(),
        time_ms: NOW * 1000,
    };
    let (signature, statement) = (tombstone.sign(&device).unwrap(), tombstone.message());
    vec![
        ("envelope", "good-one", whole(packet, sealed)),
        ("envelope", "bad-payload", whole(packet, &changed)),
        ("envelope", "bad-others", [whole(packet, sealed), vec![9; 64], vec![9; 64]].concat()),
        ("header", "good-oneshot", packet.clone()),
        ("header", "good-handshake", first.packets[0].1.clone()),
        ("header", "good-ratchet", answer.packets[0].1.clone()),
        ("header", "bad-type", unknown),
        ("header", "bad-length", packet[1..].to_vec()),
        ("tombstone", "good-signed", [&signature[..], &statement].concat()),
        ("tombstone", "bad-signature", [&[0; 64][..], &statement].concat()),
    ]
}

fn accounts() -> Vec<Seed> {
    let (_, device) = inputs::sender();
    let recovery = DeviceSecret::from_seed(&[9; 32]);
    let handle = Handle::parse("alice").unwrap();
    let genesis = SignedGenesis::sign(
        &device,
        &NewAccount {
            origin: ORIGIN,
            handle: &handle,
            capabilities: Capabilities::from_bits(7).unwrap(),
            not_after: 0,
            name_commitment: [4; 32],
            recovery: RecoveryPublic::from_bytes(recovery.public().as_bytes()).unwrap(),
            time_ms: NOW * 1000,
        },
    );
    let json = |genesis: &SignedGenesis| {
        serde_json::to_vec(&SignedEvent {
            event: to_base64(&genesis.event),
            sig: to_base64(&genesis.signature),
            accept_sig: to_base64(&genesis.accept_signature),
        })
        .unwrap()
    };
    let forged = SignedGenesis { signature: [1; 64], ..genesis.clone() };
    let close = |body: &[u8]| {
        let event = Event {
            origin: ORIGIN.as_bytes(),
            account: [1; 32],
            seq: 3,
            prev: [2; 32],
            kind: Change::Close.kind(),
            time_ms: NOW * 1000,
            signer: [3; 32],
            body,
        };
        event.encode()
    };
    let prekey = |not_after| {
        let secret = FallbackSecret::from_seeds(1, [1; 32], [2; 64]);
        let signed = SignedFallback::sign(&device, ORIGIN, &secret, validity());
        let signed = SignedFallback { not_after, ..signed };
        serde_json::to_vec(&wire::fallback_out(&signed)).unwrap()
    };
    vec![
        ("genesis", "good-alice", json(&genesis)),
        ("genesis", "bad-signature", json(&forged)),
        ("event", "good-genesis", genesis.event.clone()),
        ("event", "good-close", close(&Change::Close.encode())),
        ("event", "bad-body", close(b"")),
        ("event", "bad-cut", genesis.event[..50].to_vec()),
        ("prekey", "good-fallback", prekey(validity().not_after())),
        ("prekey", "bad-time", prekey(validity().not_after() + 1)),
        ("identity", "good-line", line(genesis, ORIGIN)),
        ("identity", "bad-origin", line(forged, "other.example.org")),
    ]
}

fn validity() -> Validity {
    Validity::longest(NOW).unwrap()
}

/// The line of a stateless identity whose log has the key of a name.
fn line(genesis: SignedGenesis, key_name: &str) -> Vec<u8> {
    let (_, device) = inputs::sender();
    let key = [&[0x01][..], device.public().as_bytes()].concat();
    let id = Sha256::digest([key_name.as_bytes(), b"\n", &key].concat());
    let id: String = id[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let pin = ServerPin {
        url: RelayUrl::parse("https://relay.example.org").unwrap(),
        origin: Origin::parse(ORIGIN).unwrap(),
        log_key: LogKey::parse(&format!("{key_name}+{id}+{}", to_base64(&key))).unwrap(),
        time_key: None,
    };
    let handle = nexo_schema::ids::Handle::parse("alice").unwrap();
    let idem = Zeroizing::new([6; 32]);
    let account = genesis.account_id();
    let identity = Identity { handle, account, device, genesis, admission: None, idem };
    identity.to_text(&pin).as_bytes().to_vec()
}

/// Two devices in the middle of a conversation, with a message on the way that is late.
fn stored() -> Vec<Seed> {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let first = alice.send(&bob, b"1", NOW);
    let late = alice.send(&bob, b"2", NOW);
    let third = alice.send(&bob, b"3", NOW);
    bob.take(&first, NOW).unwrap();
    bob.take(&third, NOW).unwrap();
    let (heard, mut broken) = (bob.sessions_with(&alice), Vec::new());
    let heard = heard.active().unwrap().to_bytes().to_vec();
    broken.extend_from_slice(&heard[..heard.len() - 1]);
    let session = late.place().0;
    let kept = bob.skipped(alice.id(), session);
    let kept = kept.iter().next().unwrap().to_bytes().to_vec();
    let opening = alice.sessions_with(&bob).active().unwrap().to_bytes().to_vec();
    vec![
        ("session", "good-opening", opening),
        ("session", "good-heard", heard),
        ("session", "bad-cut", broken),
        ("skipped", "good-one", kept.clone()),
        ("skipped", "bad-cut", kept[1..].to_vec()),
    ]
}
