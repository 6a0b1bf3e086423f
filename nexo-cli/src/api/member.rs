//! A logged-in device: tokens, proofs of possession, and the routes for devices.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{
    Bundle, Challenge, Conversation, ConversationRequest, DeleteRequest, DeleteResponse,
    PacketAgain, Page, PrekeyStock, PrekeyUpload, RegisterRequest, RetryState, SendResponse,
    SignedEvent, Tokens, VerifyRequest,
};
use nexo_schema::ids::{AccountId, ConvId, DeviceId, Handle, MsgId, Origin};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ApiError, Call, Credentials, MAX_ANSWER, MAX_TEXT, Relay, json, malformed};
use crate::clock;
use crate::e2ee::dpop::{ProofOf, dpop_proof};
use crate::e2ee::{self, DeviceSecret, SignedGenesis, sign_challenge};
use crate::home::Home;
use crate::random;

/// A token is renewed this long before it ends, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(30);
/// Logins of one device at once push each other's challenges out; then it is tried again.
const LOGIN_TRIES: usize = 5;

/// How long to let others of this home log in first.
const LOGIN_PATIENCE: Duration = Duration::from_secs(5);

/// This device at the relay. Logs in when first needed, and again when the token ends.
pub struct Member<'a> {
    relay: &'a Relay,
    who: Login<'a>,
    origin: &'a Origin,
    invite: Option<&'a str>,
    /// Where turns are taken; a stateless device has no other process to wait for.
    home: Option<&'a Home>,
    token: RefCell<Option<Token>>,
}

/// Who logs in.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The handle.
    pub handle: &'a Handle,
    /// The account that the relay must say it is.
    pub account: e2ee::AccountId,
    /// The device.
    pub device: &'a DeviceSecret,
    /// The account's first event, from the device that made it: with it the account is made if
    /// there is none. A device that joined later logs in with handle and key.
    pub genesis: Option<&'a SignedGenesis>,
}

/// An access token, in memory only.
struct Token {
    text: String,
    kind: &'static str,
    ends: Instant,
}

impl<'a> Member<'a> {
    /// `invite` is for the relay's first login only.
    #[must_use]
    pub fn new(
        relay: &'a Relay,
        who: Login<'a>,
        origin: &'a Origin,
        invite: Option<&'a str>,
        home: Option<&'a Home>,
    ) -> Self {
        Self { relay, who, origin, invite, home, token: RefCell::new(None) }
    }

    /// Logs in unless a token is at hand. The first time ever this registers the account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn log_in(&self) -> Result<(), ApiError> {
        let fresh = |t: &Token| t.ends.saturating_duration_since(Instant::now()) > MARGIN;
        if self.token.borrow().as_ref().is_some_and(fresh) {
            return Ok(());
        }
        let turn = match self.home {
            Some(home) => home.login_turn(LOGIN_PATIENCE).await,
            None => None,
        };
        let done = self.tried().await;
        drop(turn);
        done
    }

    async fn tried(&self) -> Result<(), ApiError> {
        for _ in 1..LOGIN_TRIES {
            match self.new_token().await {
                Err(e) if e.code() == Some(ErrorCode::ChallengeInvalid) => {}
                other => return other,
            }
        }
        self.new_token().await
    }

    async fn new_token(&self) -> Result<(), ApiError> {
        let request = encoded(&self.registration())?;
        let call = post("/auth/register", &request);
        let challenge: Challenge = json(&call, &self.anonymous(&call).await?)?;
        let signature =
            sign_challenge(self.who.device, &challenge.nonce, self.origin.as_str(), &request)?;
        let answer = encoded(&VerifyRequest {
            device_id: self.device_id().to_string(),
            signature: to_base64(&signature),
        })?;
        let call = post("/auth/verify", &answer);
        let tokens: Tokens = json(&call, &self.anonymous(&call).await?)?;
        self.adopt(tokens)
    }

    fn registration(&self) -> RegisterRequest {
        let Login { handle, device, genesis, .. } = self.who;
        let genesis = genesis.map(|genesis| SignedEvent {
            event: to_base64(&genesis.event),
            sig: to_base64(&genesis.signature),
            accept_sig: to_base64(&genesis.accept_signature),
        });
        RegisterRequest {
            handle: handle.to_string(),
            device_id: None,
            ed25519_pub: to_base64(device.public().as_bytes()),
            genesis,
            invite: self.invite.map(str::to_owned),
        }
    }

    fn adopt(&self, tokens: Tokens) -> Result<(), ApiError> {
        let ours = tokens.account_id.0 == *self.who.account.as_bytes()
            && tokens.device_id.native_bytes() == Some(*self.device_id().as_bytes());
        if !ours {
            return Err(ApiError::OtherAccount);
        }
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !visible(&tokens.access) {
            return Err(malformed(&post("/auth/verify", b""), "a token"));
        }
        // A day is more than any relay grants; the bound keeps the sum below from overflowing.
        let life = Duration::from_secs(tokens.expires_in.min(86_400));
        let kind = if tokens.token_type.eq_ignore_ascii_case("dpop") { "DPoP" } else { "Bearer" };
        let ends = Instant::now() + life;
        *self.token.borrow_mut() = Some(Token { text: tokens.access, kind, ends });
        Ok(())
    }

    /// A request that gets a token: proven, but without one.
    async fn anonymous(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        let attempt = || async {
            let dpop = Some(self.proof(&call.method, call.path, None)?);
            self.relay.once(call, Credentials { authorization: None, dpop }, MAX_TEXT).await
        };
        self.relay.retry(attempt).await
    }

    /// A request as this device; a token that the relay no longer takes is renewed once.
    async fn asked(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        match self.with_token(call).await {
            Err(e) if e.code() == Some(ErrorCode::Unauthorized) => {
                self.forget_token();
                self.with_token(call).await
            }
            other => other,
        }
    }

    async fn with_token(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        // Before the tries, because logging in has tries of its own.
        self.log_in().await?;
        let attempt = || async {
            let credentials = self.proven(&call.method, call.path)?;
            self.relay.once(call, credentials, MAX_ANSWER).await
        };
        self.relay.retry(attempt).await
    }

    /// Token and a fresh proof for one request; the relay takes each proof once.
    pub(super) async fn credentials(
        &self,
        method: &Method,
        path: &str,
    ) -> Result<Credentials, ApiError> {
        self.log_in().await?;
        self.proven(method, path)
    }

    /// Has the next request log in, because the relay does not take the token any more.
    pub fn forget_token(&self) {
        *self.token.borrow_mut() = None;
    }

    fn proven(&self, method: &Method, path: &str) -> Result<Credentials, ApiError> {
        let token = self.token.borrow();
        let Some(token) = token.as_ref() else { return Ok(Credentials::default()) };
        Ok(Credentials {
            authorization: Some(format!("{} {}", token.kind, token.text)),
            dpop: Some(self.proof(method, path, Some(&token.text))?),
        })
    }

    fn proof(&self, method: &Method, path: &str, token: Option<&str>) -> Result<String, ApiError> {
        let request = ProofOf {
            method: method.as_str(),
            url: &self.relay.url().route(path),
            origin: self.origin.as_str(),
            issued_at: clock::seconds(),
            id: random::array()?,
            token,
        };
        Ok(dpop_proof(self.who.device, &request)?)
    }

    fn device_id(&self) -> e2ee::DeviceId {
        self.who.device.public().device_id()
    }

    /// The relay, as anybody may ask it.
    #[must_use]
    pub fn relay(&self) -> &'a Relay {
        self.relay
    }

    /// An account's chain and prekeys, by handle. `held` is the size of the newest head held,
    /// from which consistency is asked; 0 for none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn bundle(&self, handle: &Handle, held: u64) -> Result<Bundle, ApiError> {
        self.look_up(&format!("/accounts/{handle}/bundle"), held).await
    }

    /// As [`Member::bundle`], and claims a one-time prekey of each device.
    ///
    /// # Errors
    /// [`ApiError`]; `forbidden` for those who share no conversation with the account.
    pub async fn claim(&self, handle: &Handle, held: u64) -> Result<Bundle, ApiError> {
        let (path, query) = (format!("/accounts/{handle}/bundle"), since(held));
        let call = Call { method: Method::POST, path: &path, query: &query, body: Some(b"") };
        json(&call, &self.asked(&call).await?)
    }

    /// As [`Member::bundle`], by account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn bundle_by_id(&self, account: AccountId, held: u64) -> Result<Bundle, ApiError> {
        self.look_up(&format!("/accounts/by-id/{account}/bundle"), held).await
    }

    async fn look_up(&self, path: &str, held: u64) -> Result<Bundle, ApiError> {
        self.read(path, &since(held)).await
    }

    /// Opens the conversation with a handle, or finds it open.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn open_conversation(&self, peer: &Handle) -> Result<Conversation, ApiError> {
        let request = ConversationRequest { peer_handle: peer.to_string() };
        self.change("/conversations", &encoded(&request)?).await
    }

    /// Posts the exact bytes of a message.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post_message(&self, request: &[u8]) -> Result<SendResponse, ApiError> {
        self.change("/messages", request).await
    }

    /// Says that this device cannot open a message of `sender`, which may then send it again.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn ask_again(
        &self,
        conversation: ConvId,
        msg_id: &MsgId,
        sender: &DeviceId,
    ) -> Result<RetryState, ApiError> {
        let path = format!("/messages/{conversation}/{msg_id}/retry");
        let query = format!("device_id={sender}");
        let call = Call { method: Method::POST, path: &path, query: &query, body: Some(b"") };
        json(&call, &self.asked(&call).await?)
    }

    /// Puts a new key packet into the place of the one that `device` could not open.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn put_packet(
        &self,
        conversation: ConvId,
        msg_id: &MsgId,
        device: &DeviceId,
        packet: &[u8],
    ) -> Result<RetryState, ApiError> {
        let path = format!("/messages/{conversation}/{msg_id}/packets/{device}");
        let body = encoded(&PacketAgain { packet: to_base64(packet) })?;
        let call = Call { method: Method::PUT, path: &path, query: "", body: Some(&body) };
        json(&call, &self.asked(&call).await?)
    }

    /// Posts a signed deletion.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete(&self, request: &DeleteRequest) -> Result<DeleteResponse, ApiError> {
        self.change("/messages/delete", &encoded(request)?).await
    }

    /// What is in the log for this account behind position `after`, with proofs.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn page(&self, after: u64, limit: u32, held: u64) -> Result<Page, ApiError> {
        let mut query = format!("after={after}&limit={limit}&proofs=1");
        if held > 0 {
            query = format!("{query}&tree_size={held}");
        }
        self.read("/messages", &query).await
    }

    /// What the relay holds of this device's prekeys.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn prekeys(&self) -> Result<PrekeyStock, ApiError> {
        self.read("/prekeys", "").await
    }

    /// Publishes and removes prekeys.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn publish(&self, upload: &PrekeyUpload) -> Result<PrekeyStock, ApiError> {
        self.change("/prekeys", &encoded(upload)?).await
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
    ) -> Result<T, ApiError> {
        let call = Call { method: Method::GET, path, query, body: None };
        json(&call, &self.asked(&call).await?)
    }

    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &[u8],
    ) -> Result<T, ApiError> {
        let call = post(path, body);
        json(&call, &self.asked(&call).await?)
    }
}

/// Asks for a consistency proof from the head held.
fn since(held: u64) -> String {
    if held > 0 { format!("tree_size={held}") } else { String::new() }
}

pub(super) fn post<'a>(path: &'a str, body: &'a [u8]) -> Call<'a> {
    Call { method: Method::POST, path, query: "", body: Some(body) }
}

pub(super) fn encoded<T: Serialize>(request: &T) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(request).map_err(|_| ApiError::Encoding)
}
