-- The local state of nexo-cli (e2ee 2.20). Columns named sealed_* hold
-- nx_seal(DEK, "nexo/1/store/<table>", enc("nexo/1/store-row", [key of the row, version u64]), ..):
-- rows cannot be read, or put in each other's place, without the state key.
-- Times are Unix seconds of this machine's clock unless said otherwise.

-- One row: the device of this directory and the relay it belongs to.
CREATE TABLE identity (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    handle         TEXT    NOT NULL,
    account_id     BLOB    NOT NULL CHECK (length(account_id) = 32),
    genesis_event  BLOB    NOT NULL,
    genesis_sig    BLOB    NOT NULL CHECK (length(genesis_sig) = 64),
    genesis_accept BLOB    NOT NULL CHECK (length(genesis_accept) = 64),
    sealed_seed    BLOB    NOT NULL,
    sealed_idem    BLOB    NOT NULL,
    -- 1 once the genesis event was seen in the log.
    registered     INTEGER NOT NULL DEFAULT 0 CHECK (registered IN (0, 1))
) STRICT;

-- One row: what was pinned at registration. A server move is a later command.
CREATE TABLE server_pin (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    url       TEXT NOT NULL,
    origin    TEXT NOT NULL,
    log_vkey  TEXT NOT NULL,
    -- Named by a note that the log key signed; replaced when such a note names another.
    time_vkey TEXT
) STRICT;

-- Accounts whose chain was verified in the log; the newest one of a handle is its pin.
CREATE TABLE peers (
    account_id     BLOB    PRIMARY KEY CHECK (length(account_id) = 32),
    handle         TEXT    NOT NULL,
    -- 1 for the account the handle is pinned to.
    pinned         INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    device_id      TEXT    NOT NULL,
    genesis_event  BLOB    NOT NULL,
    genesis_sig    BLOB    NOT NULL CHECK (length(genesis_sig) = 64),
    genesis_accept BLOB    NOT NULL CHECK (length(genesis_accept) = 64),
    -- Position of the genesis event in the log, from 1.
    sth_index      INTEGER NOT NULL CHECK (sth_index > 0),
    first_seen     INTEGER NOT NULL,
    -- The device's signed fallback prekey as served (public; verified again at each use).
    fallback       TEXT,
    fallback_at    INTEGER,
    -- 1 once the relay has opened the conversation with this account.
    conversation   INTEGER NOT NULL DEFAULT 0 CHECK (conversation IN (0, 1))
) STRICT;

CREATE UNIQUE INDEX one_pin_per_handle ON peers (handle) WHERE pinned = 1;

-- One row: the newest head that was verified against everything before it.
CREATE TABLE heads (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB    NOT NULL CHECK (length(root) = 32),
    note TEXT    NOT NULL,
    -- The relay's time signature on it, Unix seconds.
    time INTEGER NOT NULL
) STRICT;

-- Two signed heads that cannot both be true. While a row is here nothing is sent.
CREATE TABLE split_views (
    id      INTEGER PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    held    TEXT NOT NULL,
    shown   TEXT NOT NULL
) STRICT;

-- Own prekeys; the secret is X25519 32 || ML-KEM seed 64.
CREATE TABLE prekeys (
    kind          TEXT    NOT NULL CHECK (kind IN ('fallback', 'one_time')),
    id            INTEGER NOT NULL CHECK (id > 0),
    sealed_secret BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    -- Fallback: the signed start of validity, by the relay's time signature.
    not_before    INTEGER,
    -- Fallback: when a newer one took its place.
    replaced_at   INTEGER,
    -- 1 once the relay confirmed that it holds the public half.
    published     INTEGER NOT NULL DEFAULT 0 CHECK (published IN (0, 1)),
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

-- Handshakes seen, for as long as the fallback prekey they used can open anything.
CREATE TABLE replays (
    fallback_id INTEGER NOT NULL,
    ephemeral   BLOB    NOT NULL CHECK (length(ephemeral) = 32),
    PRIMARY KEY (fallback_id, ephemeral)
) STRICT, WITHOUT ROWID;

-- What this device sent or is about to send.
CREATE TABLE outbox (
    msg_id       TEXT    PRIMARY KEY,
    conv_id      BLOB    NOT NULL CHECK (length(conv_id) = 32),
    peer_account BLOB    NOT NULL CHECK (length(peer_account) = 32),
    peer_handle  TEXT    NOT NULL,
    -- Counters of the device and of its messages in this conversation.
    dseq         INTEGER UNIQUE,
    cseq         INTEGER NOT NULL,
    envelope     BLOB    NOT NULL CHECK (length(envelope) = 32),
    -- The exact bytes of the request; a retry sends these.
    request      BLOB    NOT NULL,
    -- NULL once deleted for everyone.
    sealed_text  BLOB,
    created_at   INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('unsent', 'sent', 'deleted')),
    sth_index    INTEGER CHECK (sth_index > 0),
    -- Version in the sealed columns' AAD.
    version      INTEGER NOT NULL DEFAULT 1,
    CHECK ((state = 'unsent') = (sth_index IS NULL))
) STRICT;

CREATE INDEX outbox_by_conversation ON outbox (conv_id, cseq);

-- What this device received, in log order.
CREATE TABLE inbox (
    sth_index      INTEGER PRIMARY KEY CHECK (sth_index > 0),
    conv_id        BLOB    NOT NULL CHECK (length(conv_id) = 32),
    msg_id         TEXT    NOT NULL,
    -- NULL for a plain account, which has no chain.
    sender_account BLOB,
    sender_device  TEXT    NOT NULL,
    sender_handle  TEXT,
    kind           TEXT    NOT NULL CHECK (kind IN ('text', 'unsupported', 'undecryptable', 'deleted')),
    -- Why it was not decrypted.
    reason         TEXT,
    envelope       BLOB,
    sealed_text    BLOB,
    -- The sender's word, RFC 3339.
    sent_at        TEXT,
    received_at    INTEGER NOT NULL,
    printed        INTEGER NOT NULL DEFAULT 0 CHECK (printed IN (0, 1)),
    version        INTEGER NOT NULL DEFAULT 1,
    UNIQUE (sender_device, msg_id)
) STRICT;

CREATE INDEX inbox_unprinted ON inbox (sth_index) WHERE printed = 0;

-- Small values of the whole: instance, dseq, cursor, key_check, prekeys_checked_at.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
