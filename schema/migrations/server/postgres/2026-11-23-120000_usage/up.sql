-- What accounts have stored, for quotas: messages, deleted ones too, and bytes of those that are not.
CREATE TABLE account_usage (
    account_id BYTEA  NOT NULL PRIMARY KEY,
    messages   BIGINT NOT NULL,
    bytes      BIGINT NOT NULL
);

-- One row once they are counted; until then the table above says nothing.
CREATE TABLE usage_counted (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1)
);
