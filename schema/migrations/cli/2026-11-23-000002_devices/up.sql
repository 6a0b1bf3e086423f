-- Whole chains, devices, pins and what others saw of the log.

-- The events of an account's chain as they were verified in the log, without a gap from 0 on:
-- of peers, and of this device's own account. What is cached here is verified again when used.
CREATE TABLE chain_events (
    account_id BLOB    NOT NULL CHECK (length(account_id) = 32),
    seq        INTEGER NOT NULL CHECK (seq >= 0),
    -- Position in the log, from 1.
    sth_index  INTEGER NOT NULL CHECK (sth_index > 0),
    event      BLOB    NOT NULL,
    sig        BLOB    NOT NULL,
    accept_sig BLOB    NOT NULL,
    PRIMARY KEY (account_id, seq)
) STRICT, WITHOUT ROWID;

INSERT INTO chain_events (account_id, seq, sth_index, event, sig, accept_sig)
    SELECT account_id, 0, sth_index, genesis_event, genesis_sig, genesis_accept FROM peers;

ALTER TABLE peers DROP COLUMN device_id;
ALTER TABLE peers DROP COLUMN genesis_event;
ALTER TABLE peers DROP COLUMN genesis_sig;
ALTER TABLE peers DROP COLUMN genesis_accept;
ALTER TABLE peers DROP COLUMN sth_index;
ALTER TABLE peers DROP COLUMN fallback;
ALTER TABLE peers DROP COLUMN fallback_at;
-- The devices' prekeys as last served (JSON; public, verified again at each use), and when.
ALTER TABLE peers ADD COLUMN bundle TEXT;
ALTER TABLE peers ADD COLUMN bundle_at INTEGER;

-- The event that brought this device into its account; NULL for the device that made it.
ALTER TABLE identity ADD COLUMN admission_event BLOB;
ALTER TABLE identity ADD COLUMN admission_sig BLOB;
ALTER TABLE identity ADD COLUMN admission_accept BLOB;

-- Devices of the own account that were added here, or that its owner confirmed here.
CREATE TABLE own_devices (
    device_id BLOB    PRIMARY KEY CHECK (length(device_id) = 32),
    known_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Accounts that a person named for a handle, by fingerprint.
CREATE TABLE pins (
    handle     TEXT    PRIMARY KEY,
    account_id BLOB    NOT NULL CHECK (length(account_id) = 32),
    pinned_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Heads that senders say they hold, signed by the log and not yet proved to be of one history
-- with ours.
CREATE TABLE heard_heads (
    size     INTEGER NOT NULL CHECK (size >= 0),
    root     BLOB    NOT NULL CHECK (length(root) = 32),
    note     TEXT    NOT NULL,
    heard_at INTEGER NOT NULL,
    PRIMARY KEY (size, root)
) STRICT, WITHOUT ROWID;
