-- The conversations a device is limited to, 32 bytes each, joined; empty for all.
ALTER TABLE devices ADD COLUMN conversations BLOB NOT NULL DEFAULT x'';

-- A device's logins end with it.
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (device_id);

-- New devices that wait to be taken into an account, for ten minutes, and what one has offered.
CREATE TABLE link_requests (
    link_id     BLOB    NOT NULL PRIMARY KEY,
    ed25519_pub BLOB    NOT NULL,
    name        BLOB    NOT NULL,
    opening     BLOB    NOT NULL,
    sig         BLOB    NOT NULL,
    exp         INTEGER NOT NULL,
    account_id  BLOB,
    event       BLOB,
    event_sig   BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX link_requests_by_exp ON link_requests (exp);
