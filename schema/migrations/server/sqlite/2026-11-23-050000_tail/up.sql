-- The right edge of the log is appended to instead of being written again with every batch:
-- tiles of level 0 and bundles are stored once they are full, and the entries behind the last
-- full bundle wait here as each batch left them: those from start (0-based) on, each behind
-- its 16-bit length.
CREATE TABLE tail (
    start   INTEGER NOT NULL PRIMARY KEY,
    entries BLOB    NOT NULL
) STRICT;

INSERT INTO tail (start, entries)
SELECT b.idx * 256, b.entries FROM bundles b JOIN log_head h
WHERE b.idx = h.size / 256 AND h.size % 256 > 0;

DELETE FROM bundles WHERE idx >= (SELECT size / 256 FROM log_head);
DELETE FROM tiles WHERE level = 0 AND idx >= (SELECT size / 256 FROM log_head);
