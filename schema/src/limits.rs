//! Bounds that both ends of the wire keep. Each has its reason.

/// Largest request body and WebSocket frame, bytes: a 64 KiB payload, padded, sealed and in
/// base64 (94 KiB), with key packets for 64 devices (112 KiB), and room to spare.
pub const MAX_BODY: usize = 256 * 1024;

/// Largest `cipher` once decoded, bytes: a 64 KiB body with Padmé padding and 80 bytes of seal.
pub const MAX_CIPHER: usize = 80 * 1024;

/// Largest `ad`, bytes as sent: it is routing advice, never content.
pub const MAX_AD: usize = 4 * 1024;

/// Deepest nesting of an `ad`, itself counted: common JSON readers give up at 100 or so, and it
/// lies inside pages and frames.
pub const MAX_AD_DEPTH: usize = 32;

/// Most key packets in one message: devices per conversation (e2ee 2.2).
pub const MAX_PACKETS: usize = 64;

/// Largest key packet, bytes: a one-shot packet is 1,299, the post-quantum ratchet adds 2,272.
pub const MAX_PACKET: usize = 4 * 1024;

/// Items a page holds when the client does not say, and at most.
pub const DEFAULT_PAGE: u32 = 200;
/// Most items in one page.
pub const MAX_PAGE: u32 = 1000;

/// Messages a socket is sent and has not acknowledged, when it does not say, and at most: what
/// is sent again when it comes back.
pub const DEFAULT_WINDOW: u16 = 256;
/// Most messages a socket is sent without an acknowledgement.
pub const MAX_WINDOW: u16 = 1024;
/// Names of cursors one device may have.
pub const MAX_CURSORS: usize = 8;
/// Conversations one socket may ask for by name.
pub const MAX_SUBSCRIPTIONS: usize = 64;

/// Seconds a login challenge lives.
pub const CHALLENGE_TTL: u64 = 300;
/// Live challenges one device may have; more replace the oldest. So many that a device may
/// log in from as many processes at once.
pub const MAX_CHALLENGES: usize = 32;

/// Largest register request, bytes: a genesis event with its signatures is under 1 KiB, and the
/// request is kept until its challenge is answered or expires.
pub const MAX_REGISTER: usize = 8 * 1024;

/// Largest account event, bytes: a device that is limited to 64 conversations is 2.3 KiB.
pub const MAX_EVENT: usize = 4 * 1024;
/// Longest reason in a revocation, bytes.
pub const MAX_REASON: usize = 64;
/// Devices an account may have at a time, expired ones counted (e2ee 2.2).
pub const MAX_DEVICES: usize = 16;
/// Conversations one device may be limited to.
pub const MAX_DEVICE_CONVERSATIONS: usize = 64;
/// Events in one account's chain; every client replays all of them.
pub const MAX_CHAIN: u64 = 1024;
/// Places at a chain's end that only a revocation, a recovery or a close may take, so that whoever
/// fills a chain cannot keep the owner from ending it.
pub const CHAIN_RESERVE: u64 = 24;

/// Seconds a link request lives.
pub const LINK_TTL: u64 = 600;
/// Link requests alive on a relay.
pub const MAX_LINKS: u64 = 16_384;
/// Longest opening in a link request, bytes: a salt and a name, sealed by whoever likes.
pub const MAX_OPENING: usize = 256;

/// One-time prekeys left at which a device should publish more (e2ee 2.2).
pub const PREKEYS_LOW: usize = 20;

/// One-time prekeys the relay keeps for a device (e2ee 2.2).
pub const MAX_ONE_TIME_PREKEYS: usize = 200;
/// Prekeys in one publication.
pub const MAX_PREKEY_UPLOAD: usize = 100;
/// Longest life of a fallback prekey, seconds: seven days active, thirty more accepted.
pub const FALLBACK_PREKEY_TTL: u64 = 37 * 86_400;
/// One-time prekeys one account may claim of one device, per hour and per day (e2ee 2.7).
pub const CLAIMS_PER_HOUR: i64 = 5;
/// See [`CLAIMS_PER_HOUR`].
pub const CLAIMS_PER_DAY: i64 = 20;

/// Times that one device may ask for a message it cannot open (e2ee 2.14).
pub const MAX_RETRIES: i32 = 3;
/// How long it may, seconds from when the message was committed.
pub const RETRY_TTL: u64 = 7 * 86_400;

/// Send counters behind the highest one that the relay still tells apart (design 20).
pub const DSEQ_WINDOW: u64 = 4096;

/// Seconds a DPoP proof may be old, or ahead of the relay's clock (RFC 9449 section 11.1).
pub const DPOP_SKEW: u64 = 60;
