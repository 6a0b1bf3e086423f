//! Vector files, devices with prekeys, and a message in the relay's hands.

use nexo_cli::e2ee::envelope::RecipientHash;
use nexo_cli::e2ee::{
    AccountId, ConversationId, DeviceId, DeviceSecret, FallbackPrekey, FallbackSecret, Incoming,
    KeyPacket, LocalParty, MessageContext, MessageId, OneShotRandomness, OpenRefused, Opened,
    Outgoing, Party, Recipient, SealedMessage, SignedFallback, Validity, open_oneshot,
    seal_oneshot,
};
use serde_json::Value;

pub(crate) const ORIGIN: &str = "relay.example.org";
pub(crate) const NOW: u64 = 1_700_000_000;

/// The parsed vector file at `schema/vectors/<path>`.
pub(crate) fn load(path: &str) -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/vectors/");
    serde_json::from_str(&std::fs::read_to_string(format!("{root}{path}")).unwrap()).unwrap()
}

/// The bytes of a hex string of any length.
pub(crate) fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    assert!(text.is_ascii() && text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The bytes of a hex string of a fixed length.
pub(crate) fn hex_n<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

/// Each case of a Wycheproof file with its group.
pub(crate) fn wycheproof(name: &str, mut check: impl FnMut(&Value, &Value)) {
    let file = load(&format!("wycheproof/{name}_test.json"));
    let mut seen = 0;
    for group in file["testGroups"].as_array().unwrap() {
        for case in group["tests"].as_array().unwrap() {
            check(group, case);
            seen += 1;
        }
    }
    assert_eq!(seen, file["numberOfTests"].as_u64().unwrap(), "{name}");
}

/// The public keys with which every agreement is zero, all their spellings (Wycheproof).
pub(crate) fn small_order_keys() -> Vec<[u8; 32]> {
    let mut keys = Vec::new();
    wycheproof("x25519", |_, case| {
        if case["flags"].as_array().unwrap().iter().any(|flag| flag == "ZeroSharedSecret") {
            keys.push(hex_n(&case["public"]));
        }
    });
    assert_eq!(keys.len(), 31);
    keys
}

/// A device of an account, with a published fallback prekey.
pub(crate) struct Device {
    pub(crate) account: AccountId,
    pub(crate) secret: DeviceSecret,
    pub(crate) fallback: FallbackSecret,
    pub(crate) prekey: FallbackPrekey,
}

impl Device {
    /// Device `n` of account `account`, always the same.
    pub(crate) fn new(account: u8, n: u8) -> Self {
        Self::of(AccountId::from_bytes([account; 32]), DeviceSecret::from_seed(&[n; 32]), n)
    }

    pub(crate) fn of(account: AccountId, secret: DeviceSecret, n: u8) -> Self {
        let fallback = FallbackSecret::from_seeds(u32::from(n), [n ^ 0x55; 32], [n ^ 0xaa; 64]);
        let window = Validity::longest(NOW).unwrap();
        let prekey = SignedFallback::sign(&secret, ORIGIN, &fallback, window)
            .verify(ORIGIN, &secret.public(), NOW)
            .unwrap();
        Self { account, secret, fallback, prekey }
    }

    pub(crate) fn local(&self) -> LocalParty<'_> {
        LocalParty { account: self.account, secret: &self.secret }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.secret.public().device_id()
    }

    pub(crate) fn recipient(&self) -> Recipient<'_> {
        Recipient { account: self.account, fallback: &self.prekey }
    }
}

/// Random bytes for tests: never repeating, always the same.
pub(crate) fn randomness(seed: u8, recipients: usize) -> OneShotRandomness {
    let mut count = seed;
    OneShotRandomness::draw(recipients, |out| {
        count = count.wrapping_add(1);
        out.fill(count);
        Ok::<(), std::convert::Infallible>(())
    })
    .unwrap()
}

/// The content key that [`randomness`] draws.
pub(crate) fn content_key(seed: u8) -> [u8; 32] {
    [seed.wrapping_add(1); 32]
}

/// A message as the relay holds it, each part open to change.
#[derive(Clone)]
pub(crate) struct Delivery {
    pub(crate) origin: String,
    pub(crate) conversation: ConversationId,
    pub(crate) message: MessageId,
    pub(crate) sender: Party,
    pub(crate) sealed: Vec<u8>,
    pub(crate) packets: Vec<(DeviceId, Vec<u8>)>,
}

impl Delivery {
    /// Message `n` from one device to others, sealed with [`randomness`] of seed `n`.
    pub(crate) fn seal(from: &Device, to: &[&Device], n: u8, body: &[u8]) -> (Self, SealedMessage) {
        let conversation = ConversationId::direct(ORIGIN, from.account, to[0].account);
        let message = MessageId::from_bytes([n; 16]);
        let outgoing = Outgoing { origin: ORIGIN, conversation, message, body };
        let recipients: Vec<_> = to.iter().map(|device| device.recipient()).collect();
        let sent =
            seal_oneshot(&from.local(), &outgoing, &recipients, randomness(n, to.len())).unwrap();
        let delivery = Self {
            origin: ORIGIN.into(),
            conversation,
            message,
            sender: from.local().party(),
            sealed: sent.sealed.clone(),
            packets: sent.packets.clone(),
        };
        (delivery, sent)
    }

    /// Opens it as `me`, with the packet that is addressed to `me`.
    pub(crate) fn open(&self, me: &Device) -> Result<Opened, OpenRefused> {
        self.open_with(me, &me.local(), &me.fallback)
    }

    /// Opens the packet for `addressed` with other keys or under another account.
    pub(crate) fn open_with(
        &self,
        addressed: &Device,
        me: &LocalParty<'_>,
        fallback: &FallbackSecret,
    ) -> Result<Opened, OpenRefused> {
        let is_mine = |device: &DeviceId| *device == addressed.id();
        let (_, mine) = self.packets.iter().find(|(device, _)| is_mine(device)).unwrap();
        let others: Vec<_> = self
            .packets
            .iter()
            .filter(|(device, _)| !is_mine(device))
            .map(|(device, packet)| RecipientHash::of(*device, packet))
            .collect();
        // A packet that does not parse never gets as far as opening.
        let Ok(packet) = KeyPacket::parse(mine) else { return Err(OpenRefused::Broken) };
        let context = MessageContext {
            origin: &self.origin,
            conversation: self.conversation,
            message: self.message,
            sender: self.sender,
        };
        let incoming = Incoming { context, sealed: &self.sealed, packet: &packet, others: &others };
        let opened = open_oneshot(me, fallback, &incoming);
        if let Ok(opened) = &opened {
            assert_eq!(incoming.envelope_hash(addressed.id()), Ok(opened.envelope));
        }
        opened
    }

    /// The body, for comparison.
    pub(crate) fn body(&self, me: &Device) -> Result<Vec<u8>, OpenRefused> {
        self.open(me).map(|opened| opened.body.to_vec())
    }
}
