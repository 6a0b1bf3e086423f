-- Who may read key events in bulk: tokens by their SHA-256, until they end or are revoked.
CREATE TABLE auditor_tokens (
    hash BLOB    NOT NULL PRIMARY KEY,
    exp  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Plain accounts have no row among the key events: they are found by the entry that made them.
CREATE INDEX accounts_by_place ON accounts (created_index);
