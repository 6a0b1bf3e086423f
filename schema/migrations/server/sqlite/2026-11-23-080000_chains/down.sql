DROP TABLE link_requests;
DROP INDEX refresh_tokens_by_device;
ALTER TABLE devices DROP COLUMN conversations;
