-- The conversations a device is limited to, 32 bytes each, joined; empty for all.
ALTER TABLE devices ADD COLUMN conversations BYTEA NOT NULL DEFAULT '';

-- A device's logins end with it.
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (device_id);

-- New devices that wait to be taken into an account, for ten minutes, and what one has offered.
CREATE TABLE link_requests (
    link_id     BYTEA  NOT NULL PRIMARY KEY,
    ed25519_pub BYTEA  NOT NULL,
    name        BYTEA  NOT NULL,
    opening     BYTEA  NOT NULL,
    sig         BYTEA  NOT NULL,
    exp         BIGINT NOT NULL,
    account_id  BYTEA,
    event       BYTEA,
    event_sig   BYTEA
);
CREATE INDEX link_requests_by_exp ON link_requests (exp);
