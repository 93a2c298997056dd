-- samples.db, version 1. Every scan, seal, delete and retention step is a primary-key range; there is
-- no secondary index. Rows with a `crc` carry the CRC-32 of their blob, seeded with the row's key, so
-- that a blob in the wrong row is told as well as a damaged one; see storage/checksum.py.

CREATE TABLE meta (
    k TEXT PRIMARY KEY,
    v
) WITHOUT ROWID;

-- generation: grows with every transaction that changes `block`, `chunk` or `rollup`, so that a reader
-- can tell whether the catalogue in memory describes the snapshot it sees.
INSERT INTO meta VALUES ('generation', 0);

CREATE TABLE grp (
    id         INTEGER PRIMARY KEY,          -- 0: points with timestamps of their own
    name       TEXT NOT NULL,
    sealed_seq INTEGER NOT NULL DEFAULT 0    -- journal rows up to this one are in chunks for this group
);
INSERT INTO grp VALUES (0, '', 0);

CREATE TABLE series (
    id         INTEGER PRIMARY KEY,          -- below 2^32, never reused
    grp        INTEGER NOT NULL,
    labels     TEXT NOT NULL,                -- sorted: name 0x1F value 0x1F name 0x1F value ...
    kind       INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    last_day   INTEGER NOT NULL,             -- day of the newest sealed sample
    crc        INTEGER NOT NULL              -- of labels; with id, grp, kind, created_ms
);

CREATE TABLE metadata (
    family TEXT PRIMARY KEY,
    type   TEXT NOT NULL,
    help   TEXT NOT NULL,
    unit   TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE layout (
    id   INTEGER PRIMARY KEY,
    grp  INTEGER NOT NULL,
    crc  INTEGER NOT NULL,                   -- of refs; with id, grp
    refs BLOB NOT NULL                       -- uint32[], the members of a tick in order
);

CREATE TABLE journal (
    seq  INTEGER PRIMARY KEY,
    crc  INTEGER NOT NULL,
    data BLOB NOT NULL                       -- zlib of records, see storage/journal.py
);

-- One run of ticks of one group: their shared timestamps. For group 0 the data are the refs that have
-- a chunk here, each with timestamps of its own.
CREATE TABLE block (
    id     INTEGER PRIMARY KEY,              -- window << 39 | part << 32 | group
    min_ms INTEGER NOT NULL,
    max_ms INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    crc    INTEGER NOT NULL,                 -- with id, min_ms, max_ms, n
    data   BLOB NOT NULL
);

CREATE TABLE chunk (
    id    INTEGER PRIMARY KEY,               -- window << 39 | part << 32 | series
    block INTEGER NOT NULL,
    crc   INTEGER NOT NULL,
    data  BLOB NOT NULL
);

-- Blocks whose chunks may lie about without the block's own row: they are being written, or deleted.
-- A crash leaves them here, to be swept before the key is used again.
CREATE TABLE orphaned (
    block INTEGER PRIMARY KEY
);

CREATE TABLE rollup (
    id   INTEGER PRIMARY KEY,                -- tier << 60 | (day + 1) << 32 | series
    crc  INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- A series of a compacted day that has got samples since.
CREATE TABLE dirty (
    day    INTEGER NOT NULL,
    series INTEGER NOT NULL,
    PRIMARY KEY (day, series)
) WITHOUT ROWID;

CREATE TABLE day (
    day          INTEGER PRIMARY KEY,
    compacted_ms INTEGER NOT NULL
);

-- Rows whose checksum failed: taken out of use, kept for whoever wants to look.
CREATE TABLE quarantine (
    id       INTEGER PRIMARY KEY,
    found_ms INTEGER NOT NULL,
    source   TEXT NOT NULL,
    key      INTEGER NOT NULL,
    data     BLOB
);
