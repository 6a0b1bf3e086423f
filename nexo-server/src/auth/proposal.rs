//! What a register request proposes: an account, plain or native, and its first device.
//!
//! Read once when the request comes and once more when its challenge is answered; both times
//! the whole request is judged, so that what is committed is what was signed for.

use nexo_schema::bytes::{DecodeError, from_base64, to_hex};
use nexo_schema::entry;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{RegisterRequest, SignedEvent};
use nexo_schema::ids::{AccountId, DeviceId, Handle, Origin};
use nexo_schema::sigchain::{self, Event, GENESIS, Genesis, caps};
use sha2::{Digest as _, Sha256};

use super::keys::DeviceKey;
use crate::error::ApiError;
use crate::store::{EventBytes, Registration};

type Hash = [u8; 32];

/// A register request that holds together.
pub struct Proposal {
    /// The name.
    pub handle: Handle,
    /// The first device's key.
    pub key: DeviceKey,
    /// The device's id: from the key if native, else as given or derived from the key.
    pub device: DeviceId,
    /// Whether a plain client chose the device's id.
    pub named: bool,
    /// Hash of the invite.
    pub invite: Option<Hash>,
    account: AccountId,
    kind: Kind,
    entry: Vec<u8>,
}

/// What the answer to a challenge proves: this key, for this handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Ed25519.
    pub key: Hash,
    /// The handle of the request.
    pub handle: Handle,
}

enum Kind {
    Plain,
    Native { genesis: EventBytes, caps: u16, not_after: u64 },
}

impl Proposal {
    /// Reads and judges a request for the relay `origin`.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] naming the field.
    pub fn read(origin: &Origin, request: &RegisterRequest) -> Result<Self, ApiError> {
        let handle = Handle::parse_lenient(&request.handle).map_err(|e| bad(e.to_string()))?;
        let key = from_base64(&request.ed25519_pub)
            .ok()
            .and_then(|bytes| DeviceKey::parse(&bytes).ok())
            .ok_or_else(|| bad("ed25519_pub: expected a valid Ed25519 key, 32 bytes in base64"))?;
        let invite = request.invite.as_ref().map(|text| hash(text.as_bytes()));
        let base = Base { origin, handle, key, invite };
        match &request.genesis {
            Some(event) => base.native(request.device_id.as_deref(), event),
            None => base.plain(request.device_id.as_deref()),
        }
    }

    /// What is proved once the challenge is answered.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim { key: *self.key.as_bytes(), handle: self.handle.clone() }
    }

    /// The item that makes the account, once the challenge `nonce` was answered.
    #[must_use]
    pub fn into_registration(
        self,
        device: DeviceId,
        nonce: String,
        by_invite: bool,
    ) -> Registration {
        let (caps, not_after, genesis) = match self.kind {
            Kind::Plain => (caps::SEND | caps::RECV, 0, None),
            Kind::Native { genesis, caps, not_after } => (caps, not_after, Some(genesis)),
        };
        Registration {
            handle: self.handle,
            account: self.account,
            device,
            x25519: self.key.x25519(),
            key: *self.key.as_bytes(),
            caps,
            not_after,
            nonce,
            invite: self.invite.filter(|_| by_invite),
            genesis,
            entry: self.entry,
        }
    }
}

/// What plain and native requests have in common.
struct Base<'a> {
    origin: &'a Origin,
    handle: Handle,
    key: DeviceKey,
    invite: Option<Hash>,
}

impl Base<'_> {
    fn label(&self) -> Hash {
        hash(&entry::label(self.origin.as_str(), self.handle.as_str()))
    }

    fn native_device(&self) -> Hash {
        hash(&entry::device(self.key.as_bytes()))
    }

    fn plain(self, named: Option<&str>) -> Result<Proposal, ApiError> {
        let device = match named {
            Some(text) => DeviceId::parse(text).map_err(|e| bad(e.to_string()))?,
            // Derived, so that asking again gives the same name; not the native id, because
            // a plain device is none.
            None => DeviceId::parse(&to_hex(&self.native_device()[..16]))
                .map_err(|e| ApiError::internal(e.to_string()))?,
        };
        if device.native_bytes().is_some() {
            return Err(bad("device_id: 64 hex digits are kept for native devices"));
        }
        let (origin, handle) = (self.origin.as_str(), self.handle.as_str());
        let account = hash(&entry::plain_account(origin, handle, self.key.as_bytes()));
        let record =
            entry::plain_key_record(origin, handle, &account, device.as_str(), self.key.as_bytes());
        let entry = entry::plain_key(&self.label(), &hash(&record));
        Ok(Proposal {
            handle: self.handle,
            key: self.key,
            named: named.is_some(),
            device,
            invite: self.invite,
            account: AccountId(account),
            kind: Kind::Plain,
            entry,
        })
    }

    fn native(self, named: Option<&str>, signed: &SignedEvent) -> Result<Proposal, ApiError> {
        let device_hash = self.native_device();
        let device = DeviceId::native(&device_hash);
        if named.is_some_and(|name| name != device.as_str()) {
            return Err(bad("device_id: a native device's id is the hash of its key"));
        }
        let genesis = EventBytes {
            event: decoded("genesis.event", &signed.event)?,
            sig: decoded("genesis.sig", &signed.sig)?,
            accept_sig: decoded("genesis.accept_sig", &signed.accept_sig)?,
        };
        let body = self.check_genesis(&genesis, &device_hash)?;
        let event_hash = hash(&genesis.event);
        let signatures = hash(&sigchain::signatures(&genesis.sig, &genesis.accept_sig));
        let entry = entry::key_event(&self.label(), &event_hash, &signatures);
        Ok(Proposal {
            handle: self.handle,
            key: self.key,
            device,
            named: false,
            invite: self.invite,
            account: AccountId(event_hash),
            kind: Kind::Native { genesis, caps: body.caps, not_after: body.not_after },
            entry,
        })
    }

    /// The rules of a genesis event (e2ee 2.5): ours, first, self-signed, accepted, this handle,
    /// this key.
    fn check_genesis(
        &self,
        genesis: &EventBytes,
        device: &Hash,
    ) -> Result<sigchain::Device, ApiError> {
        let unreadable = |e: DecodeError| bad(format!("genesis.event: {e}"));
        let event = Event::decode(&genesis.event).map_err(unreadable)?;
        let body = Genesis::decode(event.body).map_err(unreadable)?;
        // A first device rules the account and is not limited to conversations.
        let able = body.device.caps & caps::ADMIN != 0 && body.device.conversations.is_empty();
        let first = able
            && event.kind == GENESIS
            && event.seq == 0
            && event.prev == [0; 32]
            && event.account == [0; 32];
        let ours = event.origin == self.origin.as_str().as_bytes()
            && event.signer == *device
            && body.handle == self.handle.as_str().as_bytes()
            && body.device.key == *self.key.as_bytes();
        let accepted = sigchain::accept(&hash(&genesis.event));
        let signed = self.verifies(&genesis.event, &genesis.sig)
            && self.verifies(&accepted, &genesis.accept_sig);
        if !first || !ours || !signed {
            return Err(bad("genesis: not a signed genesis event of this handle, key and relay"));
        }
        DeviceKey::parse(&body.recovery)
            .map_err(|_| bad("genesis: the recovery key is not a valid Ed25519 key"))?;
        Ok(body.device)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.try_into().is_ok_and(|signature| self.key.verify(message, signature))
    }
}

fn decoded(field: &str, text: &str) -> Result<Vec<u8>, ApiError> {
    from_base64(text).map_err(|e| bad(format!("{field}: {e}")))
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}
