//! Who this device is, and the one line of text that carries a stateless identity.
//!
//! ```text
//! nexo-identity-1:<base64url of
//!   enc("nexo/1/identity", [url, origin, log vkey, handle, account_id 32, seed 32,
//!                           genesis event, sig 64, accept_sig 64, idem key 32])>
//! nexo-identity-2:<base64url of
//!   enc("nexo/1/identity/2", [the same ten, admission event, sig, accept_sig])>
//! ```
//!
//! The second form is of a device that joined an account: the admission is the event that
//! brought it in.
//!
//! The line is a secret: it holds the device key. It also pins the relay, so that a script
//! that has it needs no first contact.

use nexo_schema::bytes::{DecodeError, dec, enc, fixed, from_base64url, to_base64url};
use nexo_schema::change::Change;
use nexo_schema::ids::{Handle, Origin};
use nexo_schema::sigchain::{self, Event};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::api::{Login, RelayUrl, UrlError};
use crate::e2ee::sigchain::GenesisRefused;
use crate::e2ee::{
    self, AccountId, Capabilities, DeviceSecret, LocalParty, SignedGenesis, account_fingerprint,
};
use crate::trust::{KeyError, LogKey, TimeKey};
use crate::vault::SignedEvent;

const PREFIX: &str = "nexo-identity-1:";
const LABEL: &str = "nexo/1/identity";
const JOINED_PREFIX: &str = "nexo-identity-2:";
const JOINED_LABEL: &str = "nexo/1/identity/2";

/// The device's secrets and its account's first event.
pub struct Identity {
    /// The handle.
    pub handle: Handle,
    /// The account.
    pub account: AccountId,
    /// The device key.
    pub device: DeviceSecret,
    /// The event that began the account.
    pub genesis: SignedGenesis,
    /// The event that brought this device into it; `None` for the device that began it.
    pub admission: Option<SignedEvent>,
    /// Turns idempotency keys into message ids; used for nothing else.
    pub idem: Zeroizing<[u8; 32]>,
}

/// The relay as pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPin {
    /// Where it is.
    pub url: RelayUrl,
    /// Its name in every signature.
    pub origin: Origin,
    /// Signs its log.
    pub log_key: LogKey,
    /// Dates its heads; learned from a note that the log key signed.
    pub time_key: Option<TimeKey>,
}

/// Why stored or given identity data is not one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not the one line.
    #[error("not an identity: expected {PREFIX} and base64url")]
    Form,
    /// The bytes behind the prefix.
    #[error("the identity is damaged: {0}")]
    Encoding(#[from] DecodeError),
    /// The relay's URL.
    #[error("the identity's relay: {0}")]
    Url(#[from] UrlError),
    /// The relay's origin or the handle.
    #[error("the identity's names: {0}")]
    Name(#[from] nexo_schema::ids::IdError),
    /// The log key.
    #[error("the identity's log key: {0}")]
    Key(#[from] KeyError),
    /// The origin is not the log key's.
    #[error("the identity's log key is of another origin")]
    OtherOrigin,
    /// The genesis event is not valid for this origin and handle.
    #[error("the identity's first event: {0}")]
    Genesis(#[from] GenesisRefused),
    /// The account or device key is not the one in the genesis event.
    #[error("the identity's account or device key is not that of its first event")]
    OtherKey,
}

impl Identity {
    /// Checks that event, account and key belong together at `origin`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn verify(&self, origin: &Origin) -> Result<Capabilities, IdentityError> {
        let account = self.genesis.verify(origin.as_str(), &self.e2ee_handle()?)?;
        if account.id != self.account {
            return Err(IdentityError::OtherKey);
        }
        match &self.admission {
            Some(admission) => self.admitted(origin, admission),
            None if account.device == self.device.public() => Ok(account.capabilities),
            None => Err(IdentityError::OtherKey),
        }
    }

    /// What the event that brought this device in gave it. Who signed that event is judged with
    /// the whole chain, when there is one to look at.
    fn admitted(
        &self,
        origin: &Origin,
        admission: &SignedEvent,
    ) -> Result<Capabilities, IdentityError> {
        let event = Event::decode(&admission.event)?;
        let (Change::Add(device) | Change::Recover(device)) =
            Change::decode(event.kind, event.body)?
        else {
            return Err(IdentityError::OtherKey);
        };
        let accepted = sigchain::accept(&Sha256::digest(&admission.event).into());
        let ours = event.origin == origin.as_str().as_bytes()
            && event.account == *self.account.as_bytes()
            && device.key == *self.device.public().as_bytes()
            && self.device.public().verify(&accepted, &admission.accept_sig).is_ok();
        if !ours {
            return Err(IdentityError::OtherKey);
        }
        Capabilities::from_bits(device.caps).ok_or(IdentityError::OtherKey)
    }

    /// The handle as the encryption core takes it.
    ///
    /// # Errors
    /// [`IdentityError::Name`], which the equal rules of both crates rule out.
    pub fn e2ee_handle(&self) -> Result<e2ee::Handle, IdentityError> {
        e2ee::Handle::parse(self.handle.as_str())
            .map_err(|_| IdentityError::Name(nexo_schema::ids::IdError::Handle))
    }

    /// This device as one end of a message.
    #[must_use]
    pub fn party(&self) -> LocalParty<'_> {
        LocalParty { account: self.account, secret: &self.device }
    }

    /// This device as it logs in.
    #[must_use]
    pub fn login(&self) -> Login<'_> {
        Login {
            handle: &self.handle,
            account: self.account,
            device: &self.device,
            genesis: self.admission.is_none().then_some(&self.genesis),
        }
    }

    /// The id of this device.
    #[must_use]
    pub fn device_id(&self) -> e2ee::DeviceId {
        self.device.public().device_id()
    }

    /// What people compare.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        account_fingerprint(self.account)
    }

    /// The one line, with the relay it belongs to.
    #[must_use]
    pub fn to_text(&self, pin: &ServerPin) -> Zeroizing<String> {
        let (log_key, seed) = (pin.log_key.to_string(), self.device.seed());
        let mut fields: Vec<&[u8]> = vec![
            pin.url.as_str().as_bytes(),
            pin.origin.as_str().as_bytes(),
            log_key.as_bytes(),
            self.handle.as_str().as_bytes(),
            self.account.as_bytes(),
            &seed[..],
            &self.genesis.event,
            &self.genesis.signature,
            &self.genesis.accept_signature,
            &self.idem[..],
        ];
        let (prefix, label) = match &self.admission {
            None => (PREFIX, LABEL),
            Some(SignedEvent { event, sig, accept_sig }) => {
                fields.extend([&event[..], sig, accept_sig]);
                (JOINED_PREFIX, JOINED_LABEL)
            }
        };
        let bytes = Zeroizing::new(enc(label, &fields));
        Zeroizing::new(format!("{prefix}{}", to_base64url(&bytes)))
    }

    /// Reads the line; white space around it is ignored.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing that does not hold together is accepted.
    pub fn from_text(text: &str) -> Result<(Self, ServerPin), IdentityError> {
        let text = text.trim_ascii();
        let (coded, joined) = match text.strip_prefix(JOINED_PREFIX) {
            Some(coded) => (coded, true),
            None => (text.strip_prefix(PREFIX).ok_or(IdentityError::Form)?, false),
        };
        let bytes = Zeroizing::new(from_base64url(coded).map_err(|_| IdentityError::Form)?);
        let (fields, admission) = if joined {
            let [a, b, c, d, e, f, g, h, i, j, event, sig, accept_sig] =
                dec::<13>(JOINED_LABEL, &bytes)?;
            let [event, sig, accept_sig] = [event, sig, accept_sig].map(<[u8]>::to_vec);
            ([a, b, c, d, e, f, g, h, i, j], Some(SignedEvent { event, sig, accept_sig }))
        } else {
            (dec::<10>(LABEL, &bytes)?, None)
        };
        let [url, origin, vkey, handle, account, seed, event, sig, accept, idem] = fields;
        let pin = ServerPin {
            url: RelayUrl::parse(word(url)?)?,
            origin: Origin::parse(word(origin)?)?,
            log_key: LogKey::parse(word(vkey)?)?,
            time_key: None,
        };
        if pin.log_key.origin() != pin.origin.as_str() {
            return Err(IdentityError::OtherOrigin);
        }
        let identity = Self {
            handle: Handle::parse(word(handle)?)?,
            account: AccountId::from_bytes(fixed(account)?),
            device: DeviceSecret::from_seed(&Zeroizing::new(fixed(seed)?)),
            genesis: SignedGenesis {
                event: event.to_vec(),
                signature: fixed(sig)?,
                accept_signature: fixed(accept)?,
            },
            admission,
            idem: Zeroizing::new(fixed(idem)?),
        };
        identity.verify(&pin.origin)?;
        Ok((identity, pin))
    }
}

fn word(field: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(field).map_err(|_| DecodeError::Field)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::e2ee::keys::RecoveryPublic;
    use crate::e2ee::sigchain::{NewAccount, name_commitment};
    use crate::trust::testlog::TestLog;

    /// An identity of `handle` at the log's relay, from a seed of one byte repeated.
    pub(crate) fn identity(log: &TestLog, handle: &str, seed: u8) -> Identity {
        let device = DeviceSecret::from_seed(&[seed; 32]);
        let genesis = SignedGenesis::sign(
            &device,
            &NewAccount {
                origin: log.origin(),
                handle: &e2ee::Handle::parse(handle).unwrap(),
                capabilities: Capabilities::FIRST,
                not_after: 0,
                name_commitment: name_commitment(&[0; 32], ""),
                recovery: RecoveryPublic::of_seed(&[seed ^ 0xff; 32]),
                time_ms: 1,
            },
        );
        Identity {
            handle: Handle::parse(handle).unwrap(),
            account: genesis.account_id(),
            device,
            genesis,
            admission: None,
            idem: Zeroizing::new([9; 32]),
        }
    }

    /// The first event of its account, as a chain has it.
    pub(crate) fn first_event(identity: &Identity) -> SignedEvent {
        let genesis = &identity.genesis;
        SignedEvent {
            event: genesis.event.clone(),
            sig: genesis.signature.to_vec(),
            accept_sig: genesis.accept_signature.to_vec(),
        }
    }

    fn pin(log: &TestLog) -> ServerPin {
        ServerPin {
            url: RelayUrl::parse("http://127.0.0.1:8000").unwrap(),
            origin: Origin::parse(log.origin()).unwrap(),
            log_key: log.key(),
            time_key: None,
        }
    }

    #[test]
    fn the_line_reads_back() {
        let log = TestLog::new("relay.example.test");
        let alice = identity(&log, "alice", 1);
        let text = alice.to_text(&pin(&log));
        let (read, read_pin) = Identity::from_text(&format!(" {}\n", *text)).unwrap();
        assert_eq!(read_pin, pin(&log));
        assert_eq!((read.account, read.handle.as_str()), (alice.account, "alice"));
        assert_eq!(read.device.public(), alice.device.public());
        assert_eq!(*read.idem, *alice.idem);
    }

    #[test]
    fn the_line_of_a_device_that_joined_reads_back_and_is_its_own() {
        use crate::e2ee::event::{Place, accept, propose};
        let log = TestLog::new("relay.example.test");
        let alice = identity(&log, "alice", 1);
        let device = DeviceSecret::from_seed(&[5; 32]);
        let new = sigchain::Device {
            key: *device.public().as_bytes(),
            caps: 10,
            not_after: 0,
            name: [0; 32],
            conversations: Vec::new(),
        };
        let (account, prev) = (alice.account, *alice.account.as_bytes());
        let place = Place { origin: log.origin(), account, seq: 1, prev, time_ms: 1 };
        let drawn = propose(&place, &alice.device, &Change::Add(new));
        let accept_sig = accept(&device, &drawn.event).to_vec();
        let admission =
            SignedEvent { event: drawn.event, sig: drawn.signature.to_vec(), accept_sig };
        let joined = Identity { device, admission: Some(admission), ..alice };
        let (read, read_pin) = Identity::from_text(&joined.to_text(&pin(&log))).unwrap();
        assert_eq!(read.verify(&read_pin.origin).unwrap().bits(), 10);
        assert_eq!(read.admission, joined.admission);
        assert!(read.login().genesis.is_none());
        let thief = Identity { device: DeviceSecret::from_seed(&[6; 32]), ..joined };
        let text = thief.to_text(&pin(&log));
        assert!(matches!(Identity::from_text(&text), Err(IdentityError::OtherKey)));
    }

    #[test]
    fn a_line_that_does_not_hold_together_is_refused() {
        let log = TestLog::new("relay.example.test");
        let alice = identity(&log, "alice", 1);
        let text = alice.to_text(&pin(&log));
        assert!(matches!(Identity::from_text("x"), Err(IdentityError::Form)));
        assert!(matches!(Identity::from_text(&text[..80]), Err(IdentityError::Encoding(_))));
        let other_key = Identity { device: DeviceSecret::from_seed(&[2; 32]), ..alice };
        let text = other_key.to_text(&pin(&log));
        assert!(matches!(Identity::from_text(&text), Err(IdentityError::OtherKey)));
        let alice = identity(&log, "alice", 1);
        let bob = Identity { handle: Handle::parse("bob").unwrap(), ..alice };
        let text = bob.to_text(&pin(&log));
        assert!(matches!(Identity::from_text(&text), Err(IdentityError::Genesis(_))));
        let alice = identity(&log, "alice", 1);
        let other = TestLog::new("other.example.test");
        let mixed = ServerPin { log_key: other.key(), ..pin(&log) };
        let text = alice.to_text(&mixed);
        assert!(matches!(Identity::from_text(&text), Err(IdentityError::OtherOrigin)));
    }
}
