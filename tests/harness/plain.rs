//! A client written from the seed: register, sign the nonce, talk. It knows nothing of sigchains.

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};

use super::{Reply, Server, Socket, Wire, random, text};

/// A device that is logged in.
pub(crate) struct Plain {
    pub(crate) handle: String,
    pub(crate) key: SigningKey,
    /// As the relay named it.
    pub(crate) device: String,
    pub(crate) account: String,
    pub(crate) refresh: String,
    /// The way to the relay, with the access token.
    pub(crate) wire: Wire,
}

impl Plain {
    /// A new account.
    pub(crate) async fn new(server: &Server, handle: &str) -> Self {
        Self::log_in(&server.wire(), handle, new_key()).await
    }

    /// An account with this key; new, or logged in to.
    pub(crate) async fn log_in(wire: &Wire, handle: &str, key: SigningKey) -> Self {
        let challenge = wire.post("/auth/register", &registration(handle, &key)).await.ok();
        let tokens = answer(wire, &key, &challenge).await.ok();
        Self {
            handle: handle.to_owned(),
            key,
            device: text(&challenge["device_id"]),
            account: text(&tokens["account_id"]),
            refresh: text(&tokens["refresh"]),
            wire: wire.with_token(tokens["access"].as_str().unwrap()),
        }
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

    /// Sends a text as its own ciphertext; the message as stored.
    pub(crate) async fn say(&self, conv: &str, what: &str) -> Value {
        let sent = self.post("/messages", &message(conv, what)).await.ok();
        assert_eq!(sent["ok"], true);
        sent["message"].clone()
    }

    /// The items of a conversation.
    pub(crate) async fn items(&self, conv: &str) -> Vec<Value> {
        let page = self.get(&format!("/messages/{conv}")).await.ok();
        page["items"].as_array().unwrap().clone()
    }

    /// Deletes a message of one's own.
    pub(crate) async fn delete(&self, conv: &str, msg_id: &str) -> Reply {
        self.post("/messages/delete", &json!({"conv_id": conv, "target_msg_id": msg_id})).await
    }

    /// Opens the seed's socket, with the token in the query as the seed has it, and waits until
    /// it is served.
    pub(crate) async fn socket(&self, conv: &str) -> Socket {
        self.knock(conv).await.settled().await
    }

    /// Opens the seed's socket, which may be closed again at once.
    pub(crate) async fn knock(&self, conv: &str) -> Socket {
        let query = format!("conv_id={conv}&token={}", self.token());
        Socket::open(&self.wire.url, &query, &[]).await
    }
}

/// A new Ed25519 key.
pub(crate) fn new_key() -> SigningKey {
    SigningKey::from_bytes(&random())
}

/// The key as the seed's clients send it.
pub(crate) fn public(key: &SigningKey) -> String {
    to_base64(key.verifying_key().as_bytes())
}

/// A register request of the seed.
pub(crate) fn registration(handle: &str, key: &SigningKey) -> Value {
    json!({"handle": handle, "ed25519_pub": public(key)})
}

/// Signs a challenge and sends the answer.
pub(crate) async fn answer(wire: &Wire, key: &SigningKey, challenge: &Value) -> Reply {
    wire.post("/auth/verify", &signed(key, challenge)).await
}

/// The answer to a challenge.
pub(crate) fn signed(key: &SigningKey, challenge: &Value) -> Value {
    let nonce = challenge["nonce"].as_str().unwrap();
    let signature = to_base64(&key.sign(nonce.as_bytes()).to_bytes());
    json!({"device_id": challenge["device_id"], "signature": signature})
}

/// A message of the seed, with a text as its own ciphertext.
pub(crate) fn message(conv: &str, what: &str) -> Value {
    json!({"conv_id": conv, "cipher": to_base64(what.as_bytes()), "ad": {"type": "text"}})
}

/// A frame of the seed's own client, which sends `{c,n}`.
pub(crate) fn frame(conv: &str, msg_id: &str, what: &str) -> Value {
    let (c, n) = (to_base64(what.as_bytes()), to_base64(&[7; 24]));
    json!({"ver": 1, "conv_id": conv, "msg_id": msg_id, "cipher": {"c": c, "n": n},
           "ad": {"ts": 1, "type": "text"}})
}
