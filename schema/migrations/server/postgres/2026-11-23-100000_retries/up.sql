-- Messages that a device could not open and asked for, and the key packet that was made for it
-- then. For seven days; the packets that were logged stay where they are.
CREATE TABLE retries (
    sth_index BIGINT  NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    -- How often it asked, and how many of those times were answered.
    asked     INTEGER NOT NULL,
    answered  INTEGER NOT NULL,
    packet    BYTEA,
    -- When it first asked.
    at        BIGINT  NOT NULL,
    PRIMARY KEY (sth_index, device_id)
);

CREATE INDEX retries_by_age ON retries (at);
