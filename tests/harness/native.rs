//! A native client made of nexo-cli's encryption core and plain HTTP: what it sends is valid
//! until a test changes it. The real client never sends most of what the tests send.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_cli::e2ee::keys::RecoveryPublic;
use nexo_cli::e2ee::sigchain::NewAccount;
use nexo_cli::e2ee::{
    AccountId, Capabilities, ConversationId, DeviceSecret, FallbackPrekey, FallbackSecret, Handle,
    LocalParty, MessageId, OneShotRandomness, OneTimeSecret, Outgoing, Recipient, SignedFallback,
    SignedGenesis, SignedOneTime, Tombstone, Validity, seal_oneshot,
};
use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};

use super::{Reply, Server, Socket, Wire, now, plain, random, text};

/// Before sending: what kind of device is registered.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) caps: Capabilities,
    /// Unix seconds; 0 for never.
    pub(crate) not_after: u64,
}

impl Default for Kind {
    fn default() -> Self {
        Self { caps: Capabilities::FIRST, not_after: 0 }
    }
}

/// A native device that is logged in and can be written to.
pub(crate) struct Native {
    pub(crate) handle: String,
    pub(crate) secret: DeviceSecret,
    /// The same key, for signatures that [`DeviceSecret`] would never make.
    pub(crate) key: SigningKey,
    pub(crate) account: AccountId,
    pub(crate) device: String,
    pub(crate) origin: String,
    pub(crate) wire: Wire,
    pub(crate) fallback: FallbackSecret,
    /// As published.
    pub(crate) prekey: FallbackPrekey,
    /// The genesis event, as registered.
    pub(crate) genesis: SignedGenesis,
    /// Recovers the account, as the genesis has it.
    pub(crate) recovery: SigningKey,
    dseq: AtomicU64,
}

/// A message ready to be posted.
pub(crate) struct Sealed {
    /// The body of `POST /messages`.
    pub(crate) body: Value,
    pub(crate) message: MessageId,
    pub(crate) conversation: ConversationId,
    /// Its log entry.
    pub(crate) leaf: Vec<u8>,
    pub(crate) envelope: nexo_cli::e2ee::EnvelopeHash,
}

impl Native {
    /// A new account with a fallback prekey.
    pub(crate) async fn new(server: &Server, handle: &str) -> Self {
        Self::of_kind(server, handle, Kind::default()).await
    }

    /// As [`Native::new`], of another kind.
    pub(crate) async fn of_kind(server: &Server, handle: &str, kind: Kind) -> Self {
        let me = Self::unregistered(server, handle, kind);
        let challenge = me.wire.post("/auth/register", &me.registration()).await.ok();
        let tokens = plain::answer(&me.wire, &me.key, &challenge).await.ok();
        assert_eq!(tokens["account_id"], me.account.to_string());
        let me = Self { wire: me.wire.with_token(tokens["access"].as_str().unwrap()), ..me };
        me.post("/prekeys", &json!({"fallback": me.fallback_json(0)})).await.ok();
        me
    }

    /// A device that has its keys and has not said so to anybody.
    pub(crate) fn unregistered(server: &Server, handle: &str, kind: Kind) -> Self {
        let seed = random::<32>();
        let secret = DeviceSecret::from_seed(&seed);
        let origin = server.origin().to_owned();
        let recovery = random::<32>();
        let genesis = genesis_with(&secret, &origin, handle, kind, &recovery);
        let fallback = FallbackSecret::from_seeds(1, random(), random());
        let window = Validity::longest(now() - 60).unwrap();
        let prekey = SignedFallback::sign(&secret, &origin, &fallback, window)
            .verify(&origin, &secret.public(), now())
            .unwrap();
        Self {
            handle: handle.to_owned(),
            key: SigningKey::from_bytes(&seed),
            account: genesis.account_id(),
            device: secret.public().device_id().to_string(),
            secret,
            origin,
            wire: server.wire(),
            fallback,
            prekey,
            genesis,
            recovery: SigningKey::from_bytes(&recovery),
            dseq: AtomicU64::new(1),
        }
    }

    /// Another device for this one's account, of which nobody knows yet.
    pub(crate) fn sibling(&self, server: &Server) -> Self {
        let new = Self::unregistered(server, &self.handle, Kind::default());
        let recovery = self.recovery.clone();
        Self { account: self.account, genesis: self.genesis.clone(), recovery, ..new }
    }

    /// Logs in with handle and key, as any device of an account may; not judged.
    pub(crate) async fn try_login(&self) -> Reply {
        let asked = json!({"handle": self.handle, "ed25519_pub": plain::public(&self.key)});
        let challenge = self.wire.post("/auth/register", &asked).await;
        if challenge.status != 200 {
            return challenge;
        }
        plain::answer(&self.wire, &self.key, &challenge.ok()).await
    }

    /// Logs in and publishes its fallback prekey.
    pub(crate) async fn logged_in(self) -> Self {
        let tokens = self.try_login().await.ok();
        assert_eq!(tokens["account_id"], self.account.to_string());
        assert_eq!(tokens["device_id"], self.device);
        let wire = self.wire.with_token(&text(&tokens["access"]));
        let me = Self { wire, ..self };
        me.post("/prekeys", &json!({"fallback": me.fallback_json(0)})).await.ok();
        me
    }

    /// The register request.
    pub(crate) fn registration(&self) -> Value {
        json!({"handle": self.handle, "ed25519_pub": plain::public(&self.key),
               "genesis": genesis_json(&self.genesis)})
    }

    /// The fallback prekey with another id (0: its own), as published.
    pub(crate) fn fallback_json(&self, id: u32) -> Value {
        let (dh, kem) = self.fallback.seeds();
        let id = if id == 0 { self.fallback.id() } else { id };
        let secret = FallbackSecret::from_seeds(id, *dh, *kem);
        self.sign_fallback(&secret, self.prekey.validity())
    }

    /// Any fallback prekey, signed by this device.
    pub(crate) fn sign_fallback(&self, secret: &FallbackSecret, window: Validity) -> Value {
        let signed = SignedFallback::sign(&self.secret, &self.origin, secret, window);
        json!({"id": signed.id, "x25519": to_base64(signed.dh.as_bytes()),
               "kem": to_base64(&signed.kem), "not_before": signed.not_before,
               "not_after": signed.not_after, "sig": to_base64(&signed.signature)})
    }

    /// A one-time prekey, new under each call.
    pub(crate) fn one_time_json(&self, id: u32) -> Value {
        let secret = OneTimeSecret::from_seeds(id, random(), random());
        let signed = SignedOneTime::sign(&self.secret, &self.origin, &secret);
        json!({"id": signed.id, "x25519": to_base64(signed.dh.as_bytes()),
               "kem": to_base64(&signed.kem), "sig": to_base64(&signed.signature)})
    }

    /// Publishes one-time prekeys with these ids.
    pub(crate) async fn publish(&self, ids: std::ops::RangeInclusive<u32>) -> Reply {
        let keys: Vec<Value> = ids.map(|id| self.one_time_json(id)).collect();
        self.post("/prekeys", &json!({"one_time": keys})).await
    }

    /// The access token.
    pub(crate) fn token(&self) -> &str {
        self.wire.token.as_deref().unwrap()
    }

    /// GET with the token.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.wire.get(path).await
    }

    /// POST with the token.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.wire.post(path, body).await
    }

    /// Opens the conversation with a handle; its id.
    pub(crate) async fn conversation(&self, peer: &str) -> String {
        text(&self.post("/conversations", &json!({"peer_handle": peer})).await.ok()["conv_id"])
    }

    /// Opens a socket with this query and waits until it is served.
    pub(crate) async fn socket(&self, query: &str) -> Socket {
        let token = format!("Bearer {}", self.token());
        let opened = Socket::open(&self.wire.url, query, &[("Authorization", &token)]).await;
        opened.settled().await
    }

    /// Seals a body to another device (or to this one) under the next send counter. The
    /// conversation must have been opened.
    pub(crate) fn seal(&self, to: &Self, body: &str) -> Sealed {
        let message = MessageId::from_bytes(random());
        self.seal_as(to, body, message, self.dseq.fetch_add(1, Ordering::Relaxed))
    }

    /// As [`Native::seal`], under a given id and counter.
    pub(crate) fn seal_as(&self, to: &Self, body: &str, message: MessageId, dseq: u64) -> Sealed {
        self.seal_for(to.account, &[to], body, message, dseq)
    }

    /// Seals a body to these devices, in the conversation with the account `peer`, under the next
    /// send counter.
    pub(crate) fn seal_to(&self, peer: AccountId, to: &[&Self], body: &str) -> Sealed {
        let dseq = self.dseq.fetch_add(1, Ordering::Relaxed);
        self.seal_for(peer, to, body, MessageId::from_bytes(random()), dseq)
    }

    fn seal_for(
        &self,
        peer: AccountId,
        to: &[&Self],
        body: &str,
        message: MessageId,
        dseq: u64,
    ) -> Sealed {
        let conversation = ConversationId::direct(&self.origin, self.account, peer);
        let outgoing =
            Outgoing { origin: &self.origin, conversation, message, body: body.as_bytes() };
        let sender = LocalParty { account: self.account, secret: &self.secret };
        let recipients: Vec<Recipient<'_>> =
            to.iter().map(|to| Recipient { account: to.account, fallback: &to.prekey }).collect();
        let draws = OneShotRandomness::draw(to.len(), getrandom::fill).unwrap();
        let sealed = seal_oneshot(&sender, &outgoing, &recipients, draws).unwrap();
        let packets: serde_json::Map<String, Value> = sealed
            .packets
            .iter()
            .map(|(device, packet)| (device.to_string(), to_base64(packet).into()))
            .collect();
        let body = json!({"conv_id": conversation.to_string(), "msg_id": message.to_string(),
                          "cipher": to_base64(&sealed.sealed), "ad": {"v": 1},
                          "packets": packets, "dseq": dseq});
        let (leaf, envelope) = (sealed.leaf(), sealed.envelope);
        Sealed { body, message, conversation, leaf, envelope }
    }

    /// Seals a body and sends it; the conversation must have been opened.
    pub(crate) async fn say(&self, to: &Self, body: &str) -> (Sealed, Value) {
        let sealed = self.seal(to, body);
        let answer = self.post("/messages", &sealed.body).await.ok();
        (sealed, answer)
    }

    /// The tombstone of a message, as this device would make it.
    pub(crate) fn tombstone<'a>(&'a self, of: &Sealed) -> Tombstone<'a> {
        Tombstone {
            origin: &self.origin,
            conversation: of.conversation,
            target: of.message,
            target_envelope: of.envelope,
            account: self.account,
            device: self.secret.public().device_id(),
            time_ms: now() * 1000,
        }
    }

    /// The delete request with a tombstone of any content, signed by this device.
    pub(crate) fn deletion(&self, tombstone: &Tombstone<'_>) -> Value {
        let statement = tombstone.message();
        let sig = self.key.sign(&statement).to_bytes();
        json!({"conv_id": tombstone.conversation.to_string(),
               "target_msg_id": tombstone.target.to_string(),
               "statement": to_base64(&statement), "sig": to_base64(&sig)})
    }
}

/// A genesis event of any device.
pub(crate) fn genesis(
    secret: &DeviceSecret,
    origin: &str,
    handle: &str,
    kind: Kind,
) -> SignedGenesis {
    genesis_with(secret, origin, handle, kind, &random())
}

fn genesis_with(
    secret: &DeviceSecret,
    origin: &str,
    handle: &str,
    kind: Kind,
    recovery: &[u8; 32],
) -> SignedGenesis {
    let handle = Handle::parse(handle).unwrap();
    let account = NewAccount {
        origin,
        handle: &handle,
        capabilities: kind.caps,
        not_after: kind.not_after,
        name_commitment: random(),
        recovery: RecoveryPublic::of_seed(recovery),
        time_ms: now() * 1000,
    };
    SignedGenesis::sign(secret, &account)
}

/// A genesis event as it travels.
pub(crate) fn genesis_json(genesis: &SignedGenesis) -> Value {
    json!({"event": to_base64(&genesis.event), "sig": to_base64(&genesis.signature),
           "accept_sig": to_base64(&genesis.accept_signature)})
}
