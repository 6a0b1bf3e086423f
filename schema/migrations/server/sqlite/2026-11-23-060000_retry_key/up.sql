-- The retry key by id first: ids that are made in the order of time are then neighbours in the
-- index, whoever sends them, and a batch touches few of its pages however large the log is.
DROP INDEX messages_by_sender;
CREATE UNIQUE INDEX messages_by_id ON messages (msg_id, sender_device);
