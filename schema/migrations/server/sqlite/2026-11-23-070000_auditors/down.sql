DROP INDEX accounts_by_place;
DROP TABLE auditor_tokens;
