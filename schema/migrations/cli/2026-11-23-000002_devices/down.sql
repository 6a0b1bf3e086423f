DROP TABLE heard_heads;
DROP TABLE pins;
DROP TABLE own_devices;
ALTER TABLE identity DROP COLUMN admission_accept;
ALTER TABLE identity DROP COLUMN admission_sig;
ALTER TABLE identity DROP COLUMN admission_event;
ALTER TABLE peers DROP COLUMN bundle_at;
ALTER TABLE peers DROP COLUMN bundle;
ALTER TABLE peers ADD COLUMN fallback_at INTEGER;
ALTER TABLE peers ADD COLUMN fallback TEXT;
ALTER TABLE peers ADD COLUMN sth_index INTEGER NOT NULL DEFAULT 1;
ALTER TABLE peers ADD COLUMN genesis_accept BLOB NOT NULL DEFAULT x'';
ALTER TABLE peers ADD COLUMN genesis_sig BLOB NOT NULL DEFAULT x'';
ALTER TABLE peers ADD COLUMN genesis_event BLOB NOT NULL DEFAULT x'';
ALTER TABLE peers ADD COLUMN device_id TEXT NOT NULL DEFAULT '';
UPDATE peers SET (sth_index, genesis_event, genesis_sig, genesis_accept) =
    (SELECT sth_index, event, sig, accept_sig FROM chain_events
     WHERE chain_events.account_id = peers.account_id AND seq = 0);
DROP TABLE chain_events;
