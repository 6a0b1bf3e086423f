-- Sessions with other devices (e2ee 2.8, 2.9, 2.14), and what a message in one needs beside its text.

-- One row per session. A session is with a device of one account.
CREATE TABLE sessions (
    device_id    BLOB    NOT NULL CHECK (length(device_id) = 32),
    session_id   BLOB    NOT NULL CHECK (length(session_id) = 16),
    account_id   BLOB    NOT NULL CHECK (length(account_id) = 32),
    sealed_state BLOB    NOT NULL,
    version      INTEGER NOT NULL,
    PRIMARY KEY (device_id, session_id)
) STRICT, WITHOUT ROWID;

-- One row per device that there are or were sessions with: what belongs to no one session.
CREATE TABLE pairs (
    device_id    BLOB    PRIMARY KEY CHECK (length(device_id) = 32),
    account_id   BLOB    NOT NULL CHECK (length(account_id) = 32),
    -- 1 while content of that device waits for an answer.
    owes         INTEGER NOT NULL CHECK (owes IN (0, 1)),
    sealed_state BLOB    NOT NULL,
    version      INTEGER NOT NULL
) STRICT;

CREATE INDEX pairs_that_wait ON pairs (device_id) WHERE owes = 1;

-- One row per message key that was passed over.
CREATE TABLE skipped (
    session_id BLOB    NOT NULL CHECK (length(session_id) = 16),
    serial     INTEGER NOT NULL,
    sealed_key BLOB    NOT NULL,
    stored_at  INTEGER NOT NULL,
    PRIMARY KEY (session_id, serial)
) STRICT, WITHOUT ROWID;

CREATE INDEX skipped_by_age ON skipped (stored_at);

-- What it takes to answer retries of a message that was sent; for seven days.
CREATE TABLE kept (
    msg_id       TEXT    PRIMARY KEY,
    sealed_state BLOB    NOT NULL,
    sealed_at    INTEGER NOT NULL,
    version      INTEGER NOT NULL
) STRICT;

CREATE INDEX kept_by_age ON kept (sealed_at);

-- Retries that were asked for: the new packet once it is sealed, until the relay has it.
CREATE TABLE answers (
    msg_id     TEXT    NOT NULL,
    device_id  BLOB    NOT NULL CHECK (length(device_id) = 32),
    account_id BLOB    NOT NULL CHECK (length(account_id) = 32),
    packet     BLOB,
    asked_at   INTEGER NOT NULL,
    PRIMARY KEY (msg_id, device_id)
) STRICT, WITHOUT ROWID;

-- 1 for messages of the protocol itself, which are nobody's to read.
ALTER TABLE outbox ADD COLUMN control INTEGER NOT NULL DEFAULT 0 CHECK (control IN (0, 1));

-- The same table as before with a kind and two columns more.
CREATE TABLE inbox_with_sessions (
    sth_index      INTEGER PRIMARY KEY CHECK (sth_index > 0),
    conv_id        BLOB    NOT NULL CHECK (length(conv_id) = 32),
    msg_id         TEXT    NOT NULL,
    -- NULL for a plain account, which has no chain.
    sender_account BLOB,
    sender_device  TEXT    NOT NULL,
    sender_handle  TEXT,
    kind           TEXT    NOT NULL
        CHECK (kind IN ('text', 'unsupported', 'undecryptable', 'deleted', 'control')),
    -- Why it was not decrypted.
    reason         TEXT,
    envelope       BLOB,
    sealed_text    BLOB,
    -- The sender's word, RFC 3339.
    sent_at        TEXT,
    received_at    INTEGER NOT NULL,
    printed        INTEGER NOT NULL DEFAULT 0 CHECK (printed IN (0, 1)),
    version        INTEGER NOT NULL DEFAULT 1,
    -- Who an own other device wrote to, by its word.
    recipient      TEXT,
    -- What the handshake that came with it meant: session_reset, session_rotated.
    event          TEXT,
    UNIQUE (sender_device, msg_id)
) STRICT;

INSERT INTO inbox_with_sessions
    SELECT sth_index, conv_id, msg_id, sender_account, sender_device, sender_handle, kind, reason,
           envelope, sealed_text, sent_at, received_at, printed, version, NULL, NULL
    FROM inbox;
DROP TABLE inbox;
ALTER TABLE inbox_with_sessions RENAME TO inbox;

CREATE INDEX inbox_unprinted ON inbox (sth_index) WHERE printed = 0;

-- Received messages that did not open and whose senders may be asked for them.
CREATE TABLE asks (
    sth_index  INTEGER PRIMARY KEY,
    times      INTEGER NOT NULL CHECK (times BETWEEN 0 AND 3),
    -- The last time; NULL before the first.
    asked_at   INTEGER,
    -- The session that the message came in.
    session_id BLOB CHECK (length(session_id) = 16)
) STRICT;
