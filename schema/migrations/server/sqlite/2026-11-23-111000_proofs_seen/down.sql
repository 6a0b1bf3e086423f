DROP TABLE proofs_seen;
