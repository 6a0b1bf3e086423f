DROP INDEX messages_by_id;
CREATE UNIQUE INDEX messages_by_sender ON messages (sender_device, msg_id);
