-- One row per identity; a device has an empty module_id. `body` is JSON (see store/row.rs), kept
-- with its CRC-32, so that a flipped byte is found. Only what is searched has a column.
CREATE TABLE twins (
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    body      BLOB NOT NULL,
    checksum  INTEGER NOT NULL,
    PRIMARY KEY (device_id, module_id)
) STRICT, WITHOUT ROWID;

-- One row per partition. `epoch` is the fence: whoever takes the partition raises it, and a commit
-- under an older one changes no row and is undone. `position` is the last telemetry message folded.
CREATE TABLE partitions (
    partition INTEGER NOT NULL PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    revision  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Changes that still have to be published, in order.
CREATE TABLE outbox (
    partition INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    change    BLOB NOT NULL,
    PRIMARY KEY (partition, revision)
) STRICT, WITHOUT ROWID;

-- Enrolment tokens by the SHA-256 of the token; an empty device_id lets any device in.
CREATE TABLE enrollment_tokens (
    hash       BLOB NOT NULL PRIMARY KEY,
    device_id  TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_max   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who used which token. The nonce makes a repeated call recognisable.
CREATE TABLE enrollments (
    hash      BLOB NOT NULL REFERENCES enrollment_tokens (hash) ON DELETE CASCADE,
    device_id TEXT NOT NULL,
    nonce     TEXT NOT NULL,
    PRIMARY KEY (hash, device_id)
) STRICT, WITHOUT ROWID;

-- Facts about the whole store, such as the number of partitions it was made with.
CREATE TABLE facts (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
