-- What nexo-server promises its own database: the tables of sqlite/, for PostgreSQL. Text is
-- ordered and compared by its bytes. The rows that a batch writes by the thousand have no
-- foreign keys: the batch read what they point at in the same transaction, under the head's
-- lock. Ciphertext and hashes do not compress, so they are not tried (STORAGE EXTERNAL). Times are Unix seconds, positions (*_index) are
-- 1-based places in the log, hashes are 32 bytes.

-- Who: one row per handle. An account exists from the entry that made it.
CREATE TABLE accounts (
    account_id    BYTEA   NOT NULL PRIMARY KEY,
    handle        TEXT COLLATE "C" NOT NULL UNIQUE,
    native        BOOLEAN NOT NULL,
    created_index BIGINT  NOT NULL
);

-- Keys. A row is never changed to another key; revocation sets revoked_index.
CREATE TABLE devices (
    device_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account_id    BYTEA   NOT NULL REFERENCES accounts (account_id),
    ed25519_pub   BYTEA   NOT NULL,
    x25519_pub    BYTEA   NOT NULL,
    caps          INTEGER NOT NULL,
    not_after     BIGINT  NOT NULL,
    added_index   BIGINT  NOT NULL,
    revoked_index BIGINT
);
CREATE INDEX devices_by_account ON devices (account_id, added_index);
-- For servers that look what another one changed.
CREATE INDEX devices_by_added ON devices (added_index);
CREATE INDEX devices_by_revoked ON devices (revoked_index) WHERE revoked_index IS NOT NULL;

-- Account events as signed; what the entries of kind 0x01 are hashes of.
CREATE TABLE key_events (
    sth_index  BIGINT  NOT NULL PRIMARY KEY,
    account_id BYTEA   NOT NULL REFERENCES accounts (account_id),
    seq        BIGINT  NOT NULL,
    event      BYTEA   NOT NULL,
    sig        BYTEA   NOT NULL,
    accept_sig BYTEA   NOT NULL,
    UNIQUE (account_id, seq)
);

-- Send counters used by a device: the highest, and a bitmap of those just below it.
CREATE TABLE send_counters (
    device_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    highest   BIGINT  NOT NULL,
    used      BYTEA   NOT NULL
);

-- Login challenges, single use; a new account's register request waits here until it is proved.
CREATE TABLE challenges (
    nonce     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    device_id TEXT COLLATE "C" NOT NULL,
    request   BYTEA   NOT NULL,
    exp       BIGINT  NOT NULL
);
CREATE INDEX challenges_by_device ON challenges (device_id, exp);
CREATE INDEX challenges_by_exp ON challenges (exp);

-- Refresh tokens, hashed. One row per token; a family is one login.
CREATE TABLE refresh_tokens (
    hash       BYTEA   NOT NULL PRIMARY KEY,
    family     BYTEA   NOT NULL,
    device_id  TEXT COLLATE "C" NOT NULL REFERENCES devices (device_id),
    jkt        TEXT COLLATE "C",
    exp        BIGINT  NOT NULL,
    rotated_at BIGINT
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_by_exp ON refresh_tokens (exp);

-- Invites, hashed, where registration is by invite.
CREATE TABLE invites (
    hash      BYTEA   NOT NULL PRIMARY KEY,
    uses_left BIGINT  NOT NULL CHECK (uses_left >= 0),
    exp       BIGINT  NOT NULL
);

CREATE TABLE conversations (
    conv_id BYTEA   NOT NULL PRIMARY KEY,
    kind    TEXT COLLATE "C" NOT NULL,
    created BIGINT  NOT NULL
);

CREATE TABLE participants (
    conv_id    BYTEA NOT NULL REFERENCES conversations (conv_id),
    account_id BYTEA NOT NULL REFERENCES accounts (account_id),
    PRIMARY KEY (conv_id, account_id)
);
CREATE INDEX participants_by_account ON participants (account_id, conv_id);

-- Messages in log order. content_hash is what the entry holds (EH, or the plain record's hash);
-- it outlives the ciphertext, which a deletion clears.
CREATE TABLE messages (
    sth_index      BIGINT  NOT NULL PRIMARY KEY,
    conv_id        BYTEA   NOT NULL,
    msg_id         TEXT COLLATE "C" NOT NULL,
    sender_device  TEXT COLLATE "C" NOT NULL,
    sender_account BYTEA   NOT NULL,
    native         BOOLEAN NOT NULL,
    nonce_len      INTEGER NOT NULL,
    cipher         BYTEA   NOT NULL,
    ad             BYTEA   NOT NULL,
    ts             BIGINT  NOT NULL,
    content_hash   BYTEA   NOT NULL,
    deleted_index  BIGINT
);
-- The retry key: one msg_id per sending device. By id first: ids that are made in the order of
-- time are neighbours then, whoever sends them.
CREATE UNIQUE INDEX messages_by_id ON messages (msg_id, sender_device);
CREATE INDEX messages_by_conversation ON messages (conv_id, sth_index);

-- Key packets of native messages, by recipient; the hash outlives the packet.
CREATE TABLE packets (
    sth_index BIGINT  NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    packet    BYTEA   NOT NULL,
    hash      BYTEA   NOT NULL,
    PRIMARY KEY (sth_index, device_id)
);

-- Deletions for everyone, in log order; native ones as signed.
CREATE TABLE deletions (
    sth_index     BIGINT  NOT NULL PRIMARY KEY,
    conv_id       BYTEA   NOT NULL,
    target_index  BIGINT  NOT NULL UNIQUE,
    target_msg_id TEXT COLLATE "C" NOT NULL,
    device_id     TEXT COLLATE "C" NOT NULL,
    account_id    BYTEA   NOT NULL,
    statement     BYTEA,
    sig           BYTEA,
    ts            BIGINT  NOT NULL
);
CREATE INDEX deletions_by_conversation ON deletions (conv_id, sth_index);

-- Prekeys as published (e2ee 2.7). One fallback per device; one-time ones until claimed.
CREATE TABLE fallback_prekeys (
    device_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    id         BIGINT  NOT NULL,
    x25519     BYTEA   NOT NULL,
    kem        BYTEA   NOT NULL,
    not_before BIGINT  NOT NULL,
    not_after  BIGINT  NOT NULL,
    sig        BYTEA   NOT NULL
);

CREATE TABLE one_time_prekeys (
    device_id TEXT COLLATE "C" NOT NULL REFERENCES devices (device_id),
    id        BIGINT  NOT NULL,
    x25519    BYTEA   NOT NULL,
    kem       BYTEA   NOT NULL,
    sig       BYTEA   NOT NULL,
    PRIMARY KEY (device_id, id)
);

-- The highest one-time prekey id ever published: ids are never reused, also after a claim.
CREATE TABLE prekey_marks (
    device_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES devices (device_id),
    one_time  BIGINT  NOT NULL
);

-- Who claimed how much of whom lately, for the limits against depletion.
CREATE TABLE prekey_claims (
    claimer   BYTEA   NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    at        BIGINT  NOT NULL
);
CREATE INDEX prekey_claims_by_pair ON prekey_claims (claimer, device_id, at);

-- The newest signed head: the row every commit locks first.
CREATE TABLE log_head (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    origin TEXT COLLATE "C" NOT NULL,
    size   BIGINT  NOT NULL,
    root   BYTEA   NOT NULL,
    note   BYTEA   NOT NULL,
    time   BIGINT  NOT NULL
);

-- Every head ever signed. staged_at is the ts of the messages in that batch; both only grow,
-- which is how a time is turned into a position.
CREATE TABLE heads (
    size      BIGINT  NOT NULL PRIMARY KEY,
    root      BYTEA   NOT NULL,
    note      BYTEA   NOT NULL,
    time      BIGINT  NOT NULL,
    staged_at BIGINT  NOT NULL
);
CREATE INDEX heads_by_time ON heads (staged_at);

-- Tiles and entry bundles of C2SP tlog-tiles. A level above 0 also has its partial tile at the
-- right edge; a bundle and its tile of level 0 are here once they are full.
CREATE TABLE tiles (
    level  INTEGER NOT NULL,
    idx    BIGINT  NOT NULL,
    hashes BYTEA   NOT NULL,
    PRIMARY KEY (level, idx)
);

CREATE TABLE bundles (
    idx     BIGINT NOT NULL PRIMARY KEY,
    entries BYTEA  NOT NULL
);

-- The entries behind the last full bundle, as each batch left them: those from start (0-based)
-- on, each behind its 16-bit length.
CREATE TABLE tail (
    start   BIGINT NOT NULL PRIMARY KEY,
    entries BYTEA  NOT NULL
);

ALTER TABLE messages ALTER COLUMN cipher SET STORAGE EXTERNAL;
ALTER TABLE packets ALTER COLUMN packet SET STORAGE EXTERNAL;
ALTER TABLE tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
ALTER TABLE bundles ALTER COLUMN entries SET STORAGE EXTERNAL;
