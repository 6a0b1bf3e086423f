//! What is done with the bytes of a stranger, one function for each reader of nexo-cli.
//!
//! Each gives the bytes to a reader and says whether it took them. It panics where a reader takes
//! what it must not: something that is not written the one way it is written, or not what was
//! sealed or signed. So a fuzzer finds more here than crashes.
//!
//! This is the library of the targets of cargo-fuzz, and a module of `../tests/e2ee/corpus.rs`,
//! which replays `seeds/`: what is named `good-` has to be taken, what is named `bad-` refused.

use nexo_cli::api::path;
use nexo_cli::body;
use nexo_cli::e2ee::auth::Challenge;
use nexo_cli::e2ee::envelope::RecipientHash;
use nexo_cli::e2ee::skipped::SkippedKey;
use nexo_cli::e2ee::{
    AccountId, ConversationId, DeviceId, DeviceSecret, FallbackSecret, Handle, Incoming, KeyPacket,
    LocalParty, MessageContext, MessageId, Packet, Party, Session, SignedGenesis, SkippedKeys,
    Tombstone, account_fingerprint, open_oneshot, parse_fingerprint,
};
use nexo_cli::identity::Identity;
use nexo_cli::wire;
use nexo_schema::bytes;
use nexo_schema::change::Change;
use nexo_schema::http::{Page, Prekey, SignedEvent};
use nexo_schema::{ids, sigchain};

/// A reader, and whether it took the bytes.
pub type Input = fn(&[u8]) -> bool;

/// Every one, by the name of its target and its folder of seeds.
pub const ALL: &[(&str, Input)] = &[
    ("body", body),
    ("challenge", challenge),
    ("enc", enc),
    ("envelope", envelope),
    ("event", event),
    ("fingerprint", fingerprint),
    ("genesis", genesis),
    ("header", header),
    ("identity", identity),
    ("prekey", prekey),
    ("proofs", proofs),
    ("session", session),
    ("skipped", skipped),
    ("tombstone", tombstone),
];

/// The relay of the seeds.
pub const ORIGIN: &str = "relay.example.org";
/// A time within the life of the seeds' keys, Unix seconds.
pub const NOW: u64 = 1_700_000_000;
/// What the seed that opens says.
pub const BODY: &[u8] = b"the only body that was sealed";
/// The message it is.
pub const MESSAGE: [u8; 16] = [7; 16];

/// Who sends the seeds. Its keys are in nobody's use.
#[must_use]
pub fn sender() -> (AccountId, DeviceSecret) {
    (AccountId::from_bytes([1; 32]), DeviceSecret::from_seed(&[1; 32]))
}

/// Who receives them.
#[must_use]
pub fn receiver() -> (AccountId, DeviceSecret, FallbackSecret) {
    let fallback = FallbackSecret::from_seeds(2, [2; 32], [3; 64]);
    (AccountId::from_bytes([2; 32]), DeviceSecret::from_seed(&[2; 32]), fallback)
}

/// The JSON inside the seal.
pub fn body(data: &[u8]) -> bool {
    let from = ids::Handle::parse("alice").expect("a handle");
    body::read(data, body::AD, &from).is_ok()
}

/// The line that a relay asks a device to sign.
pub fn challenge(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|line| Challenge::parse(line).is_ok())
}

/// The encoding under every hash and signature: there is one for each value.
pub fn enc(data: &[u8]) -> bool {
    const LABEL: &str = "nexo/1/fuzz";
    let Ok([one, two, three]) = bytes::dec::<3>(LABEL, data) else { return false };
    assert_eq!(bytes::enc(LABEL, &[one, two, three]), data, "two encodings of one value");
    true
}

/// A whole message as a relay hands it over: the lengths of packet and payload as u16, then
/// packet, payload, and the other recipients' devices and hashes of 64 bytes each.
pub fn envelope(data: &[u8]) -> bool {
    let Some((lengths, rest)) = data.split_at_checked(4) else { return false };
    let length = |at: usize| usize::from(u16::from_be_bytes([lengths[at], lengths[at + 1]]));
    let Some((packet, rest)) = rest.split_at_checked(length(0)) else { return false };
    let Some((sealed, rest)) = rest.split_at_checked(length(2)) else { return false };
    let others: Vec<_> = rest
        .chunks_exact(64)
        .map(|other| RecipientHash {
            device: DeviceId::from_bytes(other[..32].try_into().expect("32 bytes")),
            packet: other[32..].try_into().expect("32 bytes"),
        })
        .collect();
    let Ok(packet) = KeyPacket::parse(packet) else { return false };
    let (account, device) = sender();
    let (own, secret, fallback) = receiver();
    let incoming = Incoming {
        context: MessageContext {
            origin: ORIGIN,
            conversation: ConversationId::direct(ORIGIN, account, own),
            message: MessageId::from_bytes(MESSAGE),
            sender: Party { account, device: device.public() },
        },
        sealed,
        packet: &packet,
        others: &others,
    };
    let me = LocalParty { account: own, secret: &secret };
    let Ok(opened) = open_oneshot(&me, &fallback, &incoming) else { return false };
    assert_eq!(&opened.body[..], BODY, "a forged message");
    true
}

/// An event of an account's chain, and what its kind says.
pub fn event(data: &[u8]) -> bool {
    let Ok(event) = sigchain::Event::decode(data) else { return false };
    assert_eq!(event.encode(), data, "two encodings of one event");
    let Ok(change) = Change::decode(event.kind, event.body) else { return false };
    assert_eq!(change.encode(), event.body, "two encodings of one change");
    true
}

/// What people compare: one spelling for each account.
pub fn fingerprint(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(account) = parse_fingerprint(text) else { return false };
    assert_eq!(account_fingerprint(account), text, "two spellings of one fingerprint");
    true
}

/// The first event of alice, with its signatures, as JSON.
pub fn genesis(data: &[u8]) -> bool {
    let Ok(signed) = serde_json::from_slice::<SignedEvent>(data) else { return false };
    let read = || {
        Some(SignedGenesis {
            event: bytes::from_base64(&signed.event).ok()?,
            signature: bytes::from_base64(&signed.sig).ok()?.try_into().ok()?,
            accept_signature: bytes::from_base64(&signed.accept_sig).ok()?.try_into().ok()?,
        })
    };
    let Some(genesis) = read() else { return false };
    let handle = Handle::parse("alice").expect("a handle");
    let Ok(account) = genesis.verify(ORIGIN, &handle) else { return false };
    assert_eq!(account.device, sender().1.public(), "a forged account");
    true
}

/// A key packet of any type.
pub fn header(data: &[u8]) -> bool {
    match Packet::parse(data) {
        Ok(Packet::OneShot(packet)) => assert_eq!(packet.bytes(), data, "a part of the bytes"),
        Ok(Packet::Session(packet)) => {
            assert_eq!(packet.bytes(), data, "a part of the bytes");
            assert!(packet.place().n < 1000 && packet.place().previous <= 1000, "out of bounds");
        }
        Err(_) => return false,
    }
    true
}

/// The line of a stateless identity.
pub fn identity(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok((identity, pin)) = Identity::from_text(text) else { return false };
    assert_eq!(&*identity.to_text(&pin), text.trim_ascii(), "two lines of one identity");
    true
}

/// A fallback prekey of the sender, as JSON.
pub fn prekey(data: &[u8]) -> bool {
    let Ok(prekey) = serde_json::from_slice::<Prekey>(data) else { return false };
    let Ok(signed) = wire::fallback(&prekey) else { return false };
    let Ok(verified) = signed.verify(ORIGIN, &sender().1.public(), NOW) else { return false };
    assert_eq!(verified.keys().id, 1, "a forged prekey");
    true
}

/// A page of messages with their proofs, as JSON.
pub fn proofs(data: &[u8]) -> bool {
    let Ok(page) = serde_json::from_slice::<Page>(data) else { return false };
    let inclusions = page.items.iter().filter_map(|item| item.inclusion.as_deref());
    inclusions.chain(page.consistency.as_deref()).all(|hashes| path(hashes).is_some())
}

/// A session as it is stored.
pub fn session(data: &[u8]) -> bool {
    let Ok(session) = Session::from_bytes(data) else { return false };
    assert_eq!(&session.to_bytes()[..], data, "two forms of one session");
    true
}

/// A kept message key as it is stored.
pub fn skipped(data: &[u8]) -> bool {
    let Ok(key) = SkippedKey::from_bytes(data) else { return false };
    assert_eq!(&key.to_bytes()[..], data, "two forms of one key");
    let again = SkippedKey::from_bytes(data).expect("was read once");
    assert!(SkippedKeys::restore(vec![key, again]).is_err(), "one key twice");
    true
}

/// A signed deletion: 64 bytes of signature and the statement.
pub fn tombstone(data: &[u8]) -> bool {
    let Some((signature, statement)) = data.split_at_checked(64) else { return false };
    if let Ok(tombstone) = Tombstone::parse(statement) {
        assert_eq!(tombstone.message(), statement, "two encodings of one tombstone");
    }
    let Ok(tombstone) = Tombstone::verify(ORIGIN, statement, signature, &sender().1.public())
    else {
        return false;
    };
    assert_eq!(tombstone.target, MessageId::from_bytes(MESSAGE), "a forged deletion");
    true
}
