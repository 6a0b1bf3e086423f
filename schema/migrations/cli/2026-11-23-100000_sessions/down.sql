DROP TABLE asks;
CREATE TABLE inbox_without_sessions (
    sth_index      INTEGER PRIMARY KEY CHECK (sth_index > 0),
    conv_id        BLOB    NOT NULL CHECK (length(conv_id) = 32),
    msg_id         TEXT    NOT NULL,
    sender_account BLOB,
    sender_device  TEXT    NOT NULL,
    sender_handle  TEXT,
    kind           TEXT    NOT NULL CHECK (kind IN ('text', 'unsupported', 'undecryptable', 'deleted')),
    reason         TEXT,
    envelope       BLOB,
    sealed_text    BLOB,
    sent_at        TEXT,
    received_at    INTEGER NOT NULL,
    printed        INTEGER NOT NULL DEFAULT 0 CHECK (printed IN (0, 1)),
    version        INTEGER NOT NULL DEFAULT 1,
    UNIQUE (sender_device, msg_id)
) STRICT;

INSERT INTO inbox_without_sessions
    SELECT sth_index, conv_id, msg_id, sender_account, sender_device, sender_handle, kind, reason,
           envelope, sealed_text, sent_at, received_at, printed, version
    FROM inbox WHERE kind <> 'control';
DROP TABLE inbox;
ALTER TABLE inbox_without_sessions RENAME TO inbox;
CREATE INDEX inbox_unprinted ON inbox (sth_index) WHERE printed = 0;

DELETE FROM outbox WHERE control = 1;
ALTER TABLE outbox DROP COLUMN control;
DROP TABLE answers;
DROP TABLE kept;
DROP TABLE skipped;
DROP TABLE pairs;
DROP TABLE sessions;
