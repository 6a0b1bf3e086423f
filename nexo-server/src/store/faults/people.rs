//! Who says what: every item of these tests follows from its number, so that it can be made
//! again, for a retry and to compare.
//!
//! ```text
//! number mod 16   0 4 8 12  alice, native      2 10    carol, plain      6 14  alice unsays number - 6
//!                 1 5 9 13  bob, native        3 7 11  dave, plain       15    a newcomer registers
//! ```

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_schema::bytes::to_base64;
use nexo_schema::entry::{self, PlainMessage};
use nexo_schema::envelope::{self, Route};
use nexo_schema::http::{RegisterRequest, SignedEvent};
use nexo_schema::ids::{AccountId, ConvId, DeviceId, MsgId, Origin};
use nexo_schema::sigchain::{self, Event, GENESIS, Genesis, caps};
use sha2::{Digest as _, Sha256};

use super::super::{
    Item, NativeDeletion, NativeMessage, NewDeletion, NewMessage, Packet, Registration,
};
use crate::auth::proposal::Proposal;

/// The conversation of alice and bob.
pub(super) const NATIVE: ConvId = ConvId([1; 32]);
/// The conversation of carol and dave.
pub(super) const PLAIN: ConvId = ConvId([2; 32]);
/// Numbers that can be used; newcomers beyond have no challenge.
pub(super) const NUMBERS: u64 = 512;

type Hash = [u8; 32];

/// An account with one device.
pub(super) struct Person {
    handle: String,
    key: SigningKey,
    native: bool,
    pub(super) device: DeviceId,
    pub(super) account: AccountId,
}

impl Person {
    fn new(origin: &Origin, handle: &str, seed: u8, native: bool) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let made = registration(origin, handle, &key, native);
        Self { handle: handle.into(), key, native, device: made.device, account: made.account }
    }
}

/// Everyone who says something.
pub(super) struct People {
    origin: Origin,
    pub(super) all: [Person; 4],
}

impl People {
    pub(super) fn new(origin: &Origin) -> Self {
        let person = |name, seed, native| Person::new(origin, name, seed, native);
        let (alice, bob) = (person("alice", 11, true), person("bob", 12, true));
        let (carol, dave) = (person("carol", 13, false), person("dave", 14, false));
        Self { origin: origin.clone(), all: [alice, bob, carol, dave] }
    }

    /// Handles and devices.
    pub(super) fn named(&self) -> impl Iterator<Item = (String, DeviceId)> {
        self.all.iter().map(|who| (who.handle.clone(), who.device.clone()))
    }

    /// The registration of one of them.
    pub(super) fn join(&self, who: &Person) -> Item {
        Item::Register(registration(&self.origin, &who.handle, &who.key, who.native))
    }

    /// The item of this number.
    pub(super) fn item(&self, number: u64) -> Item {
        let [alice, bob, carol, dave] = &self.all;
        match number % 16 {
            6 | 14 => self.deletion(number - 6),
            15 => newcomer(&self.origin, number),
            kind => match kind % 4 {
                0 => self.native(number, alice, bob),
                1 => self.native(number, bob, alice),
                2 => plain(number, carol),
                _ => plain(number, dave),
            },
        }
    }

    /// Whether the item of this number needs an earlier one to be there.
    pub(super) fn unsays(number: u64) -> bool {
        matches!(number % 16, 6 | 14)
    }

    /// What an item that was placed at `ts` has in the log.
    pub(super) fn entry(&self, item: &Item, ts: u64) -> Vec<u8> {
        match item {
            Item::Register(new) => new.entry.clone(),
            Item::Event(new) => new.entry.clone(),
            Item::Deletion(NewDeletion { native: Some(native), .. }) => {
                entry::tombstone(&hash(&native.statement), &hash(&native.sig))
            }
            Item::Deletion(_) => panic!("no one unsays without a signature"),
            Item::Message(NewMessage { native: Some(native), .. }) => {
                entry::message(&native.envelope)
            }
            Item::Message(new) => {
                let record = entry::plain_message_record(&PlainMessage {
                    origin: self.origin.as_str(),
                    conv: &new.conv.0,
                    msg_id: new.msg_id.as_str(),
                    device: new.device.as_str(),
                    nonce_len: new.nonce_len,
                    cipher: &new.cipher,
                    ad: &new.ad,
                    ts,
                });
                entry::plain_message(&hash(&record))
            }
        }
    }

    fn native(&self, number: u64, from: &Person, to: &Person) -> Item {
        let (id, cipher) = (native_id(number), format!("sealed {number}").into_bytes());
        let packet = format!("packet {number}").into_bytes();
        let sealed = hash(&packet);
        let aad = self.route(&id, from, &native_bytes(from)).payload_aad();
        let digest = hash(&envelope::payload_digest(&aad, &cipher));
        let native = NativeMessage {
            envelope: hash(&envelope::envelope(&aad, &digest, &[(native_bytes(to), sealed)])),
            packets: vec![Packet { device: to.device.clone(), bytes: packet, hash: sealed }],
            dseq: Some(number + 1),
        };
        Item::Message(NewMessage {
            conv: NATIVE,
            msg_id: MsgId::native(&id),
            device: from.device.clone(),
            nonce_len: 0,
            cipher,
            ad: b"{}".to_vec(),
            native: Some(native),
        })
    }

    fn route<'a>(&'a self, id: &'a [u8; 16], from: &'a Person, device: &'a Hash) -> Route<'a> {
        let (origin, account) = (self.origin.as_str(), &from.account.0);
        Route { origin, conv: &NATIVE.0, msg_id: id, account, device }
    }

    /// alice takes back what she said under this number.
    fn deletion(&self, target: u64) -> Item {
        let alice = &self.all[0];
        let Item::Message(NewMessage { native: Some(said), .. }) = self.item(target) else {
            panic!("number {target} is not a message of alice's")
        };
        let id = native_id(target);
        let device = native_bytes(alice);
        let route = self.route(&id, alice, &device);
        let statement = envelope::tombstone(&route, &said.envelope, 1_000);
        let sig = alice.key.sign(&statement).to_bytes().to_vec();
        let native = NativeDeletion { statement, sig, target_envelope: said.envelope };
        Item::Deletion(NewDeletion {
            conv: NATIVE,
            target: MsgId::native(&id),
            device: alice.device.clone(),
            native: Some(native),
        })
    }
}

/// The numbers of those who register while the log runs, with the device of each.
pub(super) fn newcomers(origin: &Origin) -> impl Iterator<Item = (u64, DeviceId)> {
    (0..NUMBERS).filter(|number| number % 16 == 15).map(|number| match newcomer(origin, number) {
        Item::Register(new) => (number, new.device),
        _ => panic!("number {number} registers nobody"),
    })
}

fn newcomer(origin: &Origin, number: u64) -> Item {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    let key = SigningKey::from_bytes(&seed);
    Item::Register(registration(origin, &format!("newcomer-{number}"), &key, number % 32 == 15))
}

fn plain(number: u64, from: &Person) -> Item {
    Item::Message(NewMessage {
        conv: PLAIN,
        msg_id: MsgId::parse(&format!("m{number}")).unwrap(),
        device: from.device.clone(),
        nonce_len: 12,
        cipher: format!("twelve bytes and {number}").into_bytes(),
        ad: b"{}".to_vec(),
        native: None,
    })
}

fn native_bytes(of: &Person) -> Hash {
    of.device.native_bytes().unwrap()
}

fn native_id(number: u64) -> [u8; 16] {
    (u128::from(number) + 1).to_be_bytes()
}

/// A registration as the server makes it of a request, with the nonce `nonce of HANDLE`.
fn registration(origin: &Origin, handle: &str, key: &SigningKey, native: bool) -> Registration {
    let public = key.verifying_key().to_bytes();
    let request = RegisterRequest {
        handle: handle.into(),
        ed25519_pub: to_base64(&public),
        device_id: None,
        genesis: native.then(|| genesis(origin, handle, key)),
        invite: None,
    };
    let proposal = Proposal::read(origin, &request).unwrap();
    let device = proposal.device.clone();
    proposal.into_registration(device, format!("nonce of {handle}"), false)
}

fn genesis(origin: &Origin, handle: &str, key: &SigningKey) -> SignedEvent {
    let public = key.verifying_key().to_bytes();
    let device = sigchain::Device {
        key: public,
        caps: caps::ADMIN | caps::SEND | caps::RECV,
        not_after: 0,
        name: [0; 32],
        conversations: vec![],
    };
    let recovery = SigningKey::from_bytes(&[99; 32]).verifying_key().to_bytes();
    let body = Genesis { handle: handle.as_bytes(), device, recovery }.encode();
    let event = Event {
        origin: origin.as_str().as_bytes(),
        account: [0; 32],
        seq: 0,
        prev: [0; 32],
        kind: GENESIS,
        time_ms: 1_000_000,
        signer: hash(&entry::device(&public)),
        body: &body,
    }
    .encode();
    let accepted = key.sign(&sigchain::accept(&hash(&event))).to_bytes();
    SignedEvent {
        sig: to_base64(&key.sign(&event).to_bytes()),
        accept_sig: to_base64(&accepted),
        event: to_base64(&event),
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}
