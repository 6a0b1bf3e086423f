//! The first event of an account: who it is, from which everything later follows
//! (design/e2ee.md 2.5).
//!
//! ```text
//! event   = enc("nexo/1/sigchain", [origin, account_id 32, seq u64, prev 32, type u8,
//!                                   time_ms u64, signer 32, body])
//! genesis : account_id, prev = zeros, seq = 0, type = 1, signer = the device's id
//! body    = enc("nexo/1/body/genesis", [handle, device, recovery_pub 32])
//! device  = enc("nexo/1/body/device", [ed25519_pub 32, caps u16, not_after u64,
//!                                      name_commitment 32, conversations (none)])
//! sig        = Ed25519(device, event)
//! accept_sig = Ed25519(device, enc("nexo/1/sig/accept", [H(event)]))
//! account_id = H(event)
//! leaf    = enc("nexo/1/leaf", [0x01, label, H(event), H(enc("nexo/1/signatures", [sig, accept_sig]))])
//! ```
//!
//! `accept_sig` is the new device's consent; without it one could attach somebody
//! else's key to an account. Later events are signed in [`super::event`], and judged with
//! the whole chain in `trust`.

use super::ids::{AccountId, Handle, HandleRefused, account_label};
use super::kdf;
use super::keys::{DevicePublic, DeviceSecret, KeyRefused, RecoveryPublic};
use nexo_schema::bytes::{DecodeError, enc};
use nexo_schema::entry;
use nexo_schema::sigchain::{self, Event, GENESIS};

/// What a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u16);

impl Capabilities {
    /// May add and revoke devices.
    pub const ADMIN: Self = Self(1);
    /// May send.
    pub const SEND: Self = Self(2);
    /// May be written to.
    pub const RECV: Self = Self(4);
    /// Keeps no state and is exempt from the send counter.
    pub const STATELESS: Self = Self(8);
    const NAMES: [(Self, &'static str); 4] = [
        (Self::ADMIN, "admin"),
        (Self::SEND, "send"),
        (Self::RECV, "recv"),
        (Self::STATELESS, "stateless"),
    ];
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// What the first device of an account has: admin, send, recv.
    pub const FIRST: Self = Self(7);

    /// The set of these bits, unless one of them is unknown.
    #[must_use]
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits & !0x0f == 0).then_some(Self(bits))
    }

    /// The bits, as they stand in the event.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Its names, in the order of their bits.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let held = Self::NAMES.into_iter().filter(|(one, _)| self.contains(*one));
        held.map(|(_, name)| name).collect()
    }

    /// The set of names with commas between them, each at most once; `None` for other text.
    #[must_use]
    pub fn from_names(text: &str) -> Option<Self> {
        text.split(',').try_fold(Self::NONE, |set, name| {
            let (one, _) = Self::NAMES.into_iter().find(|(_, known)| *known == name)?;
            (!set.contains(one)).then_some(Self(set.0 | one.0))
        })
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why an event does not begin an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GenesisRefused {
    /// The bytes are no event.
    #[error("not an account event: {0}")]
    Encoding(#[from] DecodeError),
    /// It was made for another relay.
    #[error("the event is for another relay")]
    Origin,
    /// Its type is not genesis.
    #[error("event type {0} does not begin an account")]
    Type(u8),
    /// Account, sequence number and previous hash are not all zero.
    #[error("the event does not stand at the beginning of a chain")]
    NotFirst,
    /// Its handle is malformed.
    #[error("the event's handle is malformed: {0}")]
    Handle(#[from] HandleRefused),
    /// It binds another handle than the one asked for.
    #[error("the event is of another handle")]
    OtherHandle,
    /// The device key breaks the strict key rule.
    #[error("the device key is refused: {0}")]
    DeviceKey(KeyRefused),
    /// The recovery key breaks the strict key rule.
    #[error("the recovery key is refused: {0}")]
    RecoveryKey(KeyRefused),
    /// The signer is not the device in the body.
    #[error("the event names another signer than its device")]
    Signer,
    /// Unknown capability bits, or a first device that may not add others.
    #[error("capabilities {0:#06x} do not fit a first device")]
    Capabilities(u16),
    /// The device did not sign the event.
    #[error("the event's signature is not valid")]
    Signature,
    /// The device did not accept to be part of the account.
    #[error("the device's acceptance is not valid")]
    Acceptance,
}

/// What the owner decides about a new account.
#[derive(Debug, Clone, Copy)]
pub struct NewAccount<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The handle to bind.
    pub handle: &'a Handle,
    /// What the device may do.
    pub capabilities: Capabilities,
    /// When the device expires, in Unix seconds; 0 is never.
    pub not_after: u64,
    /// Hides the device's name; see [`name_commitment`].
    pub name_commitment: [u8; 32],
    /// The recovery key's public half.
    pub recovery: RecoveryPublic,
    /// Now, in Unix milliseconds.
    pub time_ms: u64,
}

/// A genesis event with its signatures, as it is stored and travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGenesis {
    /// The signed bytes.
    pub event: Vec<u8>,
    /// The device's signature over them.
    pub signature: [u8; 64],
    /// The device's acceptance.
    pub accept_signature: [u8; 64],
}

/// An account as its genesis event proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The account id, which people compare.
    pub id: AccountId,
    /// Its handle.
    pub handle: Handle,
    /// Its first device.
    pub device: DevicePublic,
    /// What that device may do.
    pub capabilities: Capabilities,
    /// When that device expires, in Unix seconds; 0 is never.
    pub not_after: u64,
    /// The commitment to that device's name.
    pub name_commitment: [u8; 32],
    /// The account's recovery key.
    pub recovery: RecoveryPublic,
    /// Unix milliseconds, as the signer says.
    pub time_ms: u64,
}

impl SignedGenesis {
    /// Makes and signs the first event of `account` with its first device.
    #[must_use]
    pub fn sign(device: &DeviceSecret, account: &NewAccount<'_>) -> Self {
        let public = device.public();
        let body = sigchain::Genesis {
            handle: account.handle.as_str().as_bytes(),
            device: sigchain::Device {
                key: *public.as_bytes(),
                caps: account.capabilities.bits(),
                not_after: account.not_after,
                name: account.name_commitment,
                conversations: Vec::new(),
            },
            recovery: *account.recovery.as_bytes(),
        }
        .encode();
        let event = Event {
            origin: account.origin.as_bytes(),
            account: [0; 32],
            seq: 0,
            prev: [0; 32],
            kind: GENESIS,
            time_ms: account.time_ms,
            signer: *public.device_id().as_bytes(),
            body: &body,
        }
        .encode();
        let signature = device.sign(&event);
        let accept_signature = device.sign(&acceptance(&event));
        Self { event, signature, accept_signature }
    }

    /// Verifies a received genesis of `handle` at `origin`, over the bytes as
    /// received, and says whose account it begins.
    ///
    /// # Errors
    /// [`GenesisRefused`].
    pub fn verify(&self, origin: &str, handle: &Handle) -> Result<Account, GenesisRefused> {
        let header = first_event(&self.event, origin)?;
        let account = read_body(&header, AccountId::from_bytes(kdf::hash(&self.event)))?;
        if account.handle != *handle {
            return Err(GenesisRefused::OtherHandle);
        }
        let device = &account.device;
        if header.signer != *device.device_id().as_bytes() {
            return Err(GenesisRefused::Signer);
        }
        device.verify(&self.event, &self.signature).map_err(|_| GenesisRefused::Signature)?;
        device
            .verify(&acceptance(&self.event), &self.accept_signature)
            .map_err(|_| GenesisRefused::Acceptance)?;
        Ok(account)
    }

    /// The account id, the hash of the event.
    #[must_use]
    pub fn account_id(&self) -> AccountId {
        AccountId::from_bytes(kdf::hash(&self.event))
    }

    /// The log entry the relay must make of it.
    #[must_use]
    pub fn leaf(&self, origin: &str, handle: &Handle) -> Vec<u8> {
        let signatures = sigchain::signatures(&self.signature, &self.accept_signature);
        let (event, signatures) = (kdf::hash(&self.event), kdf::hash(&signatures));
        entry::key_event(&account_label(origin, handle), &event, &signatures)
    }
}

/// What a device signs to become part of an account.
fn acceptance(event: &[u8]) -> Vec<u8> {
    sigchain::accept(&kdf::hash(event))
}

fn first_event<'a>(event: &'a [u8], origin: &str) -> Result<Event<'a>, GenesisRefused> {
    let header = Event::decode(event)?;
    if header.origin != origin.as_bytes() {
        return Err(GenesisRefused::Origin);
    }
    if header.kind != GENESIS {
        return Err(GenesisRefused::Type(header.kind));
    }
    if header.account != [0; 32] || header.prev != [0; 32] || header.seq != 0 {
        return Err(GenesisRefused::NotFirst);
    }
    Ok(header)
}

fn read_body(header: &Event<'_>, id: AccountId) -> Result<Account, GenesisRefused> {
    let sigchain::Genesis { handle, device, recovery } = sigchain::Genesis::decode(header.body)?;
    // A first device rules the account and is not limited to conversations.
    if !device.conversations.is_empty() {
        return Err(DecodeError::Field.into());
    }
    let handle = std::str::from_utf8(handle).map_err(|_| HandleRefused)?;
    let capabilities = Capabilities::from_bits(device.caps)
        .filter(|caps| caps.contains(Capabilities::ADMIN))
        .ok_or(GenesisRefused::Capabilities(device.caps))?;
    Ok(Account {
        id,
        handle: Handle::parse(handle)?,
        device: DevicePublic::from_bytes(&device.key).map_err(GenesisRefused::DeviceKey)?,
        capabilities,
        not_after: device.not_after,
        name_commitment: device.name,
        recovery: RecoveryPublic::from_bytes(&recovery).map_err(GenesisRefused::RecoveryKey)?,
        time_ms: header.time_ms,
    })
}

/// A commitment to a device's name: `H(enc("nexo/1/device-name",[salt 32, name]))`.
/// The log shows it to nobody who does not know name and salt.
#[must_use]
pub fn name_commitment(salt: &[u8; 32], name: &str) -> [u8; 32] {
    kdf::hash(&enc("nexo/1/device-name", &[salt, name.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::kat::{hex, hex_n, load};
    use proptest::prelude::*;

    const ORIGIN: &str = "relay.example.org";

    fn alice() -> Handle {
        Handle::parse("alice").unwrap()
    }

    fn secret() -> DeviceSecret {
        DeviceSecret::from_seed(&[1; 32])
    }

    fn new_account(handle: &Handle) -> NewAccount<'_> {
        NewAccount {
            origin: ORIGIN,
            handle,
            capabilities: Capabilities::FIRST,
            not_after: 0,
            name_commitment: name_commitment(&[3; 32], "laptop"),
            recovery: RecoveryPublic::of_seed(&[2; 32]),
            time_ms: 1_700_000_000_000,
        }
    }

    /// Signs `event` as an honest signer would, whatever it says.
    fn signed(event: Vec<u8>) -> SignedGenesis {
        let signature = secret().sign(&event);
        let accept_signature = secret().sign(&acceptance(&event));
        SignedGenesis { event, signature, accept_signature }
    }

    /// A correctly signed genesis in which `change` has been made to the header.
    fn with_header(change: impl FnOnce(&mut Event<'_>)) -> SignedGenesis {
        let good = SignedGenesis::sign(&secret(), &new_account(&alice()));
        let mut header = Event::decode(&good.event).unwrap();
        change(&mut header);
        signed(header.encode())
    }

    fn with_body(handle: &[u8], device: [&[u8]; 5], recovery: &[u8]) -> SignedGenesis {
        let body =
            enc("nexo/1/body/genesis", &[handle, &enc("nexo/1/body/device", &device), recovery]);
        let good = SignedGenesis::sign(&secret(), &new_account(&alice()));
        let mut header = Event::decode(&good.event).unwrap();
        header.body = &body;
        signed(header.encode())
    }

    fn verdict(genesis: &SignedGenesis) -> Result<AccountId, GenesisRefused> {
        genesis.verify(ORIGIN, &alice()).map(|account| account.id)
    }

    #[test]
    fn kat_genesis() {
        let kat = load("nexo/kat_draft.json");
        let want = &kat["genesis"];
        let origin = kat["session_with_otk"]["origin"].as_str().unwrap();
        let device = DeviceSecret::from_seed(&hex_n(&kat["device_alice"]["ed25519_seed"]));
        let commitment = b"\0\0\0\x20";
        let body = hex(&want["device_body"]);
        let at = body.windows(4).rposition(|w| w == commitment).unwrap() + 4;
        let handle = alice();
        let account = NewAccount {
            origin,
            name_commitment: body[at..at + 32].try_into().unwrap(),
            recovery: RecoveryPublic::from_bytes(&hex(&want["recovery_pub"])).unwrap(),
            ..new_account(&handle)
        };
        let genesis = SignedGenesis::sign(&device, &account);
        assert_eq!(genesis.event, hex(&want["event"]));
        assert_eq!(Event::decode(&genesis.event).unwrap().body, hex(&want["genesis_body"]));
        assert_eq!(genesis.signature[..], hex(&want["sig"]));
        assert_eq!(genesis.accept_signature[..], hex(&want["accept_sig"]));
        assert_eq!(genesis.account_id().as_bytes()[..], hex(&want["account_id"]));
        assert_eq!(account_label(origin, &alice())[..], hex(&want["label"]));
        let leaf = genesis.leaf(origin, &alice());
        assert_eq!(leaf, hex(&want["leaf"]));
        assert_eq!(kdf::hash(&[&[0], &leaf[..]].concat())[..], hex(&want["leaf_hash"]));
        let verified = genesis.verify(origin, &alice()).unwrap();
        assert_eq!(verified.device, device.public());
        assert_eq!(verified.id, genesis.account_id());
        assert_eq!(verified.recovery.as_bytes()[..], hex(&want["recovery_pub"]));
        assert_eq!(verified.capabilities, Capabilities::FIRST);
    }

    #[test]
    fn a_genesis_for_another_place_handle_or_position_is_refused() {
        let good = SignedGenesis::sign(&secret(), &new_account(&alice()));
        assert_eq!(verdict(&good), Ok(good.account_id()));
        assert_eq!(good.verify("p", &alice()), Err(GenesisRefused::Origin));
        let bob = Handle::parse("bob").unwrap();
        assert_eq!(good.verify(ORIGIN, &bob), Err(GenesisRefused::OtherHandle));
        for kind in [0, 2, 3, 4, 5, 6, 7, 255] {
            let other = with_header(|h| h.kind = kind);
            assert_eq!(verdict(&other), Err(GenesisRefused::Type(kind)));
        }
        let not_first = Err(GenesisRefused::NotFirst);
        assert_eq!(verdict(&with_header(|h| h.seq = 1)), not_first);
        assert_eq!(verdict(&with_header(|h| h.prev[31] = 1)), not_first);
        assert_eq!(verdict(&with_header(|h| h.account[0] = 1)), not_first);
        let foreign = with_header(|h| h.signer = [0; 32]);
        assert_eq!(verdict(&foreign), Err(GenesisRefused::Signer));
    }

    #[test]
    fn bodies_outside_the_rules_are_refused() {
        let key = *secret().public().as_bytes();
        let recovery = *RecoveryPublic::of_seed(&[2; 32]).as_bytes();
        let torsion = hex(&load("nexo/ed25519_to_x25519.json")["reject"][0]["ed25519_pub"]);
        let caps = 7u16.to_be_bytes();
        let device: [&[u8]; 5] = [&key, &caps, &[0; 8], &[3; 32], &[]];
        let with = |at: usize, field: &'static [u8]| {
            let mut device = device;
            device[at] = field;
            verdict(&with_body(b"alice", device, &recovery))
        };
        let field = Err(GenesisRefused::Encoding(DecodeError::Field));
        assert!(verdict(&with_body(b"alice", device, &recovery)).is_ok());
        for (caps, bits) in [(&[0, 0][..], 0), (&[0, 6], 6)] {
            assert_eq!(
                verdict(&with_body(b"alice", [&key, caps, &[0; 8], &[3; 32], &[]], &recovery)),
                Err(GenesisRefused::Capabilities(bits))
            );
        }
        assert_eq!(with(1, &[7]), field);
        assert_eq!(with(1, &[0, 0x17]), field, "an unknown capability");
        assert_eq!(with(1, &[0x80, 7]), field);
        assert_eq!(with(2, &[0; 7]), field);
        assert_eq!(with(3, &[0; 31]), field);
        assert_eq!(with(4, &[0]), field);
        assert_eq!(with(0, &[0; 31]), field);
        let torsion_key: [&[u8]; 5] = [&torsion, &caps, &[0; 8], &[3; 32], &[]];
        let refused = verdict(&with_body(b"alice", torsion_key, &recovery));
        assert_eq!(refused, Err(GenesisRefused::DeviceKey(KeyRefused::Torsion)));
        let refused = verdict(&with_body(b"alice", device, &torsion));
        assert_eq!(refused, Err(GenesisRefused::RecoveryKey(KeyRefused::Torsion)));
        for handle in [&b"Alice"[..], b"a", b"\xff\xff", b""] {
            let refused = verdict(&with_body(handle, device, &recovery));
            assert_eq!(refused, Err(GenesisRefused::Handle(HandleRefused)));
        }
    }

    #[test]
    fn b1_a_key_cannot_be_claimed_without_its_consent() {
        // Carol puts Alice's key into an account of her own and signs what she can.
        let carol = DeviceSecret::from_seed(&[9; 32]);
        let good = SignedGenesis::sign(&secret(), &new_account(&alice()));
        let mut stolen = good.clone();
        stolen.signature = carol.sign(&good.event);
        assert_eq!(verdict(&stolen), Err(GenesisRefused::Signature));
        let mut stolen = good.clone();
        stolen.accept_signature = carol.sign(&acceptance(&good.event));
        assert_eq!(verdict(&stolen), Err(GenesisRefused::Acceptance));
        // One signature does not serve as the other.
        let mut mixed = good.clone();
        mixed.accept_signature = good.signature;
        assert_eq!(verdict(&mixed), Err(GenesisRefused::Acceptance));
        mixed.signature = good.accept_signature;
        assert_eq!(verdict(&mixed), Err(GenesisRefused::Signature));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at: prop::sample::Index, bit in 0u8..8) {
            let mut genesis = SignedGenesis::sign(&secret(), &new_account(&alice()));
            let at = at.index(genesis.event.len() + 128);
            let len = genesis.event.len();
            let byte = match at {
                at if at < len => &mut genesis.event[at],
                at if at < len + 64 => &mut genesis.signature[at - len],
                at => &mut genesis.accept_signature[at - len - 64],
            };
            *byte ^= 1 << bit;
            prop_assert!(verdict(&genesis).is_err());
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            prop_assert!(verdict(&signed(noise.clone())).is_err());
            prop_assert!(Event::decode(&noise).is_err());
        }
    }
}
