-- How far a device's programs have got: the position up to which each has everything it was sent.
CREATE TABLE socket_cursors (
    device_id TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    place     BIGINT NOT NULL,
    PRIMARY KEY (device_id, name)
);
