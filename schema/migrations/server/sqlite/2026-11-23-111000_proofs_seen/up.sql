-- DPoP proofs that were used up, for servers that share the database; each until it is void anyway.
CREATE TABLE proofs_seen (
    mark BLOB    NOT NULL PRIMARY KEY,
    exp  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX proofs_seen_by_exp ON proofs_seen (exp);
