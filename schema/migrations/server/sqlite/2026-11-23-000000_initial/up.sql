-- What nexo-server promises its own disk. Times are Unix seconds, positions (*_index) are
-- 1-based places in the log, hashes are 32 bytes.

-- Who: one row per handle. An account exists from the entry that made it.
CREATE TABLE accounts (
    account_id    BLOB    NOT NULL PRIMARY KEY,
    handle        TEXT    NOT NULL UNIQUE,
    native        INTEGER NOT NULL CHECK (native IN (0, 1)),
    created_index INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys. A row is never changed to another key; revocation sets revoked_index.
CREATE TABLE devices (
    device_id     TEXT    NOT NULL PRIMARY KEY,
    account_id    BLOB    NOT NULL REFERENCES accounts (account_id),
    ed25519_pub   BLOB    NOT NULL,
    x25519_pub    BLOB    NOT NULL,
    caps          INTEGER NOT NULL,
    not_after     INTEGER NOT NULL,
    added_index   INTEGER NOT NULL,
    revoked_index INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_by_account ON devices (account_id, added_index);

-- Account events as signed; what the entries of kind 0x01 are hashes of.
CREATE TABLE key_events (
    sth_index  INTEGER NOT NULL PRIMARY KEY,
    account_id BLOB    NOT NULL REFERENCES accounts (account_id),
    seq        INTEGER NOT NULL,
    event      BLOB    NOT NULL,
    sig        BLOB    NOT NULL,
    accept_sig BLOB    NOT NULL,
    UNIQUE (account_id, seq)
) STRICT;

-- Send counters used by a device: the highest, and a bitmap of those just below it.
CREATE TABLE send_counters (
    device_id TEXT    NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    highest   INTEGER NOT NULL,
    used      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- Login challenges, single use; a new account's register request waits here until it is proved.
CREATE TABLE challenges (
    nonce     TEXT    NOT NULL PRIMARY KEY,
    device_id TEXT    NOT NULL,
    request   BLOB    NOT NULL,
    exp       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX challenges_by_device ON challenges (device_id, exp);
CREATE INDEX challenges_by_exp ON challenges (exp);

-- Refresh tokens, hashed. One row per token; a family is one login.
CREATE TABLE refresh_tokens (
    hash       BLOB    NOT NULL PRIMARY KEY,
    family     BLOB    NOT NULL,
    device_id  TEXT    NOT NULL REFERENCES devices (device_id),
    jkt        TEXT,
    exp        INTEGER NOT NULL,
    rotated_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_by_exp ON refresh_tokens (exp);

-- Invites, hashed, where registration is by invite.
CREATE TABLE invites (
    hash      BLOB    NOT NULL PRIMARY KEY,
    uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
    exp       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    conv_id BLOB    NOT NULL PRIMARY KEY,
    kind    TEXT    NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE participants (
    conv_id    BLOB NOT NULL REFERENCES conversations (conv_id),
    account_id BLOB NOT NULL REFERENCES accounts (account_id),
    PRIMARY KEY (conv_id, account_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX participants_by_account ON participants (account_id, conv_id);

-- Messages in log order. content_hash is what the entry holds (EH, or the plain record's hash);
-- it outlives the ciphertext, which a deletion clears.
CREATE TABLE messages (
    sth_index      INTEGER NOT NULL PRIMARY KEY,
    conv_id        BLOB    NOT NULL REFERENCES conversations (conv_id),
    msg_id         TEXT    NOT NULL,
    sender_device  TEXT    NOT NULL REFERENCES devices (device_id),
    sender_account BLOB    NOT NULL,
    native         INTEGER NOT NULL CHECK (native IN (0, 1)),
    nonce_len      INTEGER NOT NULL,
    cipher         BLOB    NOT NULL,
    ad             BLOB    NOT NULL,
    ts             INTEGER NOT NULL,
    content_hash   BLOB    NOT NULL,
    deleted_index  INTEGER
) STRICT;
-- The retry key: one msg_id per sending device.
CREATE UNIQUE INDEX messages_by_sender ON messages (sender_device, msg_id);
CREATE INDEX messages_by_conversation ON messages (conv_id, sth_index);

-- Key packets of native messages, by recipient; the hash outlives the packet.
CREATE TABLE packets (
    sth_index INTEGER NOT NULL REFERENCES messages (sth_index),
    device_id TEXT    NOT NULL,
    packet    BLOB    NOT NULL,
    hash      BLOB    NOT NULL,
    PRIMARY KEY (sth_index, device_id)
) STRICT, WITHOUT ROWID;

-- Deletions for everyone, in log order; native ones as signed.
CREATE TABLE deletions (
    sth_index     INTEGER NOT NULL PRIMARY KEY,
    conv_id       BLOB    NOT NULL REFERENCES conversations (conv_id),
    target_index  INTEGER NOT NULL UNIQUE REFERENCES messages (sth_index),
    target_msg_id TEXT    NOT NULL,
    device_id     TEXT    NOT NULL,
    account_id    BLOB    NOT NULL,
    statement     BLOB,
    sig           BLOB,
    ts            INTEGER NOT NULL
) STRICT;
CREATE INDEX deletions_by_conversation ON deletions (conv_id, sth_index);

-- Prekeys as published (e2ee 2.7). One fallback per device; one-time ones until claimed.
CREATE TABLE fallback_prekeys (
    device_id  TEXT    NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    id         INTEGER NOT NULL,
    x25519     BLOB    NOT NULL,
    kem        BLOB    NOT NULL,
    not_before INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    sig        BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE one_time_prekeys (
    device_id TEXT    NOT NULL REFERENCES devices (device_id),
    id        INTEGER NOT NULL,
    x25519    BLOB    NOT NULL,
    kem       BLOB    NOT NULL,
    sig       BLOB    NOT NULL,
    PRIMARY KEY (device_id, id)
) STRICT, WITHOUT ROWID;

-- The highest one-time prekey id ever published: ids are never reused, also after a claim.
CREATE TABLE prekey_marks (
    device_id TEXT    NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    one_time  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who claimed how much of whom lately, for the limits against depletion.
CREATE TABLE prekey_claims (
    claimer   BLOB    NOT NULL,
    device_id TEXT    NOT NULL,
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX prekey_claims_by_pair ON prekey_claims (claimer, device_id, at);

-- The newest signed head: the row every commit locks first.
CREATE TABLE log_head (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    origin TEXT    NOT NULL,
    size   INTEGER NOT NULL,
    root   BLOB    NOT NULL,
    note   BLOB    NOT NULL,
    time   INTEGER NOT NULL
) STRICT;

-- Every head ever signed. staged_at is the ts of the messages in that batch; both only grow,
-- which is how a time is turned into a position.
CREATE TABLE heads (
    size      INTEGER NOT NULL PRIMARY KEY,
    root      BLOB    NOT NULL,
    note      BLOB    NOT NULL,
    time      INTEGER NOT NULL,
    staged_at INTEGER NOT NULL
) STRICT;
CREATE INDEX heads_by_time ON heads (staged_at);

-- Tiles and entry bundles of C2SP tlog-tiles, full and the partial ones at the right edge.
CREATE TABLE tiles (
    level  INTEGER NOT NULL,
    idx    INTEGER NOT NULL,
    hashes BLOB    NOT NULL,
    PRIMARY KEY (level, idx)
) STRICT;

CREATE TABLE bundles (
    idx     INTEGER NOT NULL PRIMARY KEY,
    entries BLOB    NOT NULL
) STRICT;
