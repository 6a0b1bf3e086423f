DROP TABLE socket_cursors;
