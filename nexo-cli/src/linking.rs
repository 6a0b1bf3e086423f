//! A new device on its way into an account that exists: linked by a device that may, or by the
//! account's recovery key (e2ee 2.22).
//!
//! The order is what keeps it safe to stop anywhere: the key and the accepted event are on disk
//! before the relay hears of the event; then the device logs in, reads the chain as everybody
//! does, and only then becomes this home's identity.

use std::time::Duration;

use nexo_schema::bytes::{from_base64, to_base64, to_hex};
use nexo_schema::change::Change;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{LinkAcceptance, LinkOffer, LinkRequest};
use nexo_schema::ids::Handle;
use nexo_schema::sigchain::{Device as NewDevice, Event};

use crate::api::{Login, Member, Relay};
use crate::clock;
use crate::devices::{DeviceError, on_the_wire};
use crate::e2ee::event::{Place, accept, ask_for_link, link_code};
use crate::e2ee::sigchain::name_commitment;
use crate::e2ee::{
    AccountId, Capabilities, DeviceSecret, RecoverySecret, SignedGenesis, account_fingerprint,
};
use crate::home::Home;
use crate::identity::{Identity, ServerPin};
use crate::random;
use crate::trust::{LogTrust, PeerError, find_chain, newcomer};
use crate::vault::{Pending, SignedEvent, Vault};

/// How often it is asked whether somebody has approved.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// The new device's side of things: a home without an identity, at its relay.
pub struct Newcomer<'a> {
    /// The relay.
    pub relay: &'a Relay,
    /// Where it is, as pinned.
    pub pin: &'a ServerPin,
    /// The state.
    pub vault: &'a Vault,
    /// The directory.
    pub home: &'a Home,
}

/// A request that waits for an answer.
pub struct Request {
    /// What a person carries to the other device.
    pub code: [u8; 16],
    /// Unix seconds at which it is over.
    pub ends: u64,
    device: DeviceSecret,
    commitment: [u8; 32],
}

impl Newcomer<'_> {
    fn trust(&self) -> LogTrust<'_, Relay> {
        let time_key = self.pin.time_key.clone();
        LogTrust::new(self.relay, self.vault, &self.pin.log_key, time_key, Some(self.home))
    }

    fn origin(&self) -> &str {
        self.pin.origin.as_str()
    }

    /// Asks for a place in somebody's account, under a name for people's eyes.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn ask(&self, name: &str) -> Result<Request, DeviceError> {
        let device = DeviceSecret::from_seed(&*random::secret::<32>()?);
        let salt = random::secret::<32>()?;
        let commitment = name_commitment(&salt, name);
        let opening = [&salt[..], name.as_bytes()].concat();
        let sig = ask_for_link(&device, self.origin(), &commitment, &opening);
        let link = self
            .relay
            .ask_for_link(&LinkRequest {
                ed25519_pub: to_base64(device.public().as_bytes()),
                name: to_base64(&commitment),
                opening: Some(to_base64(&opening)),
                sig: to_base64(&sig),
            })
            .await?;
        let code = link_code(self.origin(), &device.public());
        Ok(Request { code, ends: link.exp, device, commitment })
    }

    /// Waits until the request is answered, accepts, and becomes the account's device.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn wait(
        &self,
        request: &Request,
        handle: &Handle,
        expect: Option<AccountId>,
    ) -> Result<Identity, DeviceError> {
        let id = to_hex(&request.code);
        loop {
            let offer = match self.relay.link(&id).await {
                Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                    return Err(DeviceError::TooLate);
                }
                other => other?.offer,
            };
            let Some(offer) = offer else {
                tokio::time::sleep(ASK_EVERY).await;
                continue;
            };
            let pending = self.judged(request, &offer, handle, expect)?;
            self.vault.write(|tx| tx.set_pending(&pending)).await?;
            let accept_sig = to_base64(&pending.admission.accept_sig);
            match self.relay.accept_link(&id, &LinkAcceptance { accept_sig }).await {
                // The account has changed since; the other device offers again.
                Err(error) if error.code() == Some(ErrorCode::ChainMoved) => {
                    tokio::time::sleep(ASK_EVERY).await;
                }
                other => {
                    other?;
                    return self.enter(pending).await;
                }
            }
        }
    }

    /// What is accepted: exactly this key and name, in exactly the account that was meant.
    fn judged(
        &self,
        request: &Request,
        offer: &LinkOffer,
        handle: &Handle,
        expect: Option<AccountId>,
    ) -> Result<Pending, DeviceError> {
        let account = crate::wire::account(offer.account_id);
        if offer.handle != *handle || expect.is_some_and(|expect| expect != account) {
            return Err(DeviceError::OtherAccount { shown: account_fingerprint(account) });
        }
        let bytes = |text| from_base64(text).map_err(|_| DeviceError::Offer("is not base64"));
        let (event, sig) = (bytes(&offer.event)?, bytes(&offer.sig)?);
        let read = Event::decode(&event).map_err(|_| DeviceError::Offer("is no event"))?;
        let Ok(Change::Add(device)) = Change::decode(read.kind, read.body) else {
            return Err(DeviceError::Offer("adds no device"));
        };
        let ours = read.origin == self.origin().as_bytes()
            && read.account == *account.as_bytes()
            && device.key == *request.device.public().as_bytes()
            && device.name == request.commitment;
        if !ours {
            return Err(DeviceError::Offer("is not for this device and account"));
        }
        let accept_sig = accept(&request.device, &event).to_vec();
        let admission = SignedEvent { event, sig, accept_sig };
        Ok(Pending { handle: handle.clone(), account, seed: request.device.seed(), admission })
    }

    /// Recovers an account: one new device instead of all, by its recovery key. What the chain
    /// looks like is found in the public log, where anybody who knows the handle can look.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn recover(
        &self,
        handle: &Handle,
        expect: Option<AccountId>,
        key: &RecoverySecret,
        name: &str,
    ) -> Result<Identity, DeviceError> {
        let head = self.trust().fetch_head(clock::seconds()).await?;
        let chain = find_chain(self.relay, self.origin(), handle, head.size).await?;
        let (Some(first), Some(newest)) = (chain.first(), chain.last()) else {
            return Err(PeerError::Unknown(handle.to_string()).into());
        };
        let account = AccountId::from_bytes(*first);
        if expect.is_some_and(|expect| expect != account) {
            return Err(DeviceError::OtherAccount { shown: account_fingerprint(account) });
        }
        let device = DeviceSecret::from_seed(&*random::secret::<32>()?);
        let place = Place {
            origin: self.origin(),
            account,
            seq: chain.len() as u64,
            prev: *newest,
            time_ms: clock::millis(),
        };
        let new = NewDevice {
            key: *device.public().as_bytes(),
            caps: Capabilities::FIRST.bits(),
            not_after: 0,
            name: name_commitment(&*random::secret::<32>()?, name),
            conversations: Vec::new(),
        };
        let proposed = key.recover(&place, new);
        let accept_sig = accept(&device, &proposed.event).to_vec();
        let admission =
            SignedEvent { event: proposed.event, sig: proposed.signature.to_vec(), accept_sig };
        let pending = Pending { handle: handle.clone(), account, seed: device.seed(), admission };
        self.vault.write(|tx| tx.set_pending(&pending)).await?;
        match self.relay.place_event(&on_the_wire(&pending.admission)).await {
            // All but the signature is made of what the log shows; the public half of the key in
            // force is in events that only those who are logged in may read.
            Err(error) if error.code() == Some(ErrorCode::BadRequest) => {
                self.vault.write(|tx| tx.clear_pending()).await?;
                Err(DeviceError::OtherRecovery(handle.to_string()))
            }
            other => {
                other?;
                self.enter(pending).await
            }
        }
    }

    /// Goes on with a device that an earlier run may have brought in. `None` if it was not: its
    /// key is of no use any more.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn resume(&self, handle: &Handle) -> Result<Option<Identity>, DeviceError> {
        let pending = self.vault.read(|tx| tx.pending())?;
        let Some(pending) = pending.filter(|pending| pending.handle == *handle) else {
            return Ok(None);
        };
        match self.enter(pending).await {
            Ok(identity) => Ok(Some(identity)),
            Err(DeviceError::Peer(PeerError::Api(error))) if never_came_in(error.code()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Logs in, reads the chain as everybody does, and becomes this home's identity.
    async fn enter(&self, pending: Pending) -> Result<Identity, DeviceError> {
        let device = DeviceSecret::from_seed(&pending.seed);
        let login = Login {
            handle: &pending.handle,
            account: pending.account,
            device: &device,
            genesis: None,
        };
        let member = Member::new(self.relay, login, &self.pin.origin, None, Some(self.home));
        let now = clock::seconds();
        let genesis = {
            let (trust, handle) = (self.trust(), &pending.handle);
            let me = device.public().device_id();
            newcomer(&trust, &member, handle, pending.account, me, now).await?
        };
        let identity = Identity {
            handle: pending.handle,
            account: pending.account,
            genesis: genesis_of(genesis)?,
            admission: Some(pending.admission),
            idem: random::secret()?,
            device,
        };
        self.vault
            .write(|tx| {
                tx.put_identity(&identity)?;
                tx.set_registered()?;
                tx.clear_pending()
            })
            .await?;
        Ok(identity)
    }
}

/// The relay's way of saying that it knows no such device.
fn never_came_in(code: Option<ErrorCode>) -> bool {
    matches!(code, Some(ErrorCode::HandleTaken | ErrorCode::Unauthorized | ErrorCode::NotFound))
}

/// A first event that was verified in its chain, as an identity keeps it.
fn genesis_of(first: SignedEvent) -> Result<SignedGenesis, DeviceError> {
    let sized = |bytes: Vec<u8>| {
        bytes.try_into().map_err(|_| DeviceError::Offer("leads to a malformed chain"))
    };
    Ok(SignedGenesis {
        event: first.event,
        signature: sized(first.sig)?,
        accept_signature: sized(first.accept_sig)?,
    })
}
