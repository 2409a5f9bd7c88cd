-- One row per identity; a device has an empty module_id. The documents are JSON in columns of their
-- own, so that searches look into them; `body` is JSON with the rest (see store/row.rs). `checksum`
-- is a CRC-32 over the key and all columns, so that a flipped byte is found. `opaque`: a document
-- holds what the JSON functions of a store cannot represent, so it is searched in memory.
CREATE TABLE twins (
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    status    TEXT NOT NULL,
    tags      TEXT NOT NULL,
    desired   TEXT NOT NULL,
    reported  TEXT NOT NULL,
    posture   TEXT NOT NULL,
    body      TEXT NOT NULL,
    opaque    INTEGER NOT NULL,
    checksum  INTEGER NOT NULL,
    PRIMARY KEY (device_id, module_id)
) STRICT, WITHOUT ROWID;

-- Searched values that change slowly, under their paths (see index.rs): who has it.
CREATE TABLE twin_index (
    path      TEXT NOT NULL,
    value     TEXT NOT NULL,
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    PRIMARY KEY (path, value, device_id, module_id)
) STRICT, WITHOUT ROWID;

-- What an identity has, to be removed with it.
CREATE INDEX twin_index_of ON twin_index (device_id, module_id);

-- One row per partition. `epoch` is the fence: whoever takes the partition raises it, and a commit
-- under an older one changes no row and is undone. `position` is the last telemetry message folded,
-- `published` the last change that is in TWINS, `log_floor` the last one that the log has forgotten;
-- `audit_sequence` and `audit_hash` are the end of the partition's chain of audit entries.
CREATE TABLE partitions (
    partition      INTEGER NOT NULL PRIMARY KEY,
    epoch          INTEGER NOT NULL,
    owner          TEXT NOT NULL,
    address        TEXT NOT NULL,
    position       INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    published      INTEGER NOT NULL,
    log_floor      INTEGER NOT NULL,
    audit_sequence INTEGER NOT NULL,
    audit_hash     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Every change behind `log_floor`, in order. A change ends in its checksum (store/row.rs).
CREATE TABLE log (
    partition INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    change    BLOB NOT NULL,
    PRIMARY KEY (partition, revision)
) STRICT, WITHOUT ROWID;

-- What every revision of an identity changed. Times are nanoseconds since 1970, `changes` are names
-- between commas; `checksum` covers everything.
CREATE TABLE history (
    device_id      TEXT NOT NULL,
    module_id      TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,
    at             INTEGER NOT NULL,
    first_at       INTEGER NOT NULL,
    actor          TEXT NOT NULL,
    cause          TEXT NOT NULL,
    changes        TEXT NOT NULL,
    patch          TEXT NOT NULL,
    undo           TEXT NOT NULL,
    routine        INTEGER NOT NULL,
    trace_parent   TEXT,
    checksum       INTEGER NOT NULL,
    PRIMARY KEY (device_id, module_id, revision)
) STRICT, WITHOUT ROWID;

-- For the retention by age.
CREATE INDEX history_at ON history (at);

-- Administrative changes; per partition a chain of hashes (see audit.rs).
CREATE TABLE audit (
    partition    INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    actor        TEXT NOT NULL,
    action       TEXT NOT NULL,
    resource     TEXT NOT NULL,
    detail       TEXT NOT NULL,
    trace_parent TEXT,
    hash         BLOB NOT NULL,
    PRIMARY KEY (partition, sequence)
) STRICT, WITHOUT ROWID;

-- Answers to calls that may be repeated.
CREATE TABLE requests (
    id          TEXT NOT NULL PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    answer      BLOB NOT NULL,
    at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_at ON requests (at);

-- Enrolment tokens by the SHA-256 of the token; an empty device_id lets any device in.
CREATE TABLE enrollment_tokens (
    hash       BLOB NOT NULL PRIMARY KEY,
    device_id  TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_max   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who used which token. The nonce makes a repeated call recognisable.
CREATE TABLE enrollments (
    hash      BLOB NOT NULL,
    device_id TEXT NOT NULL,
    nonce     TEXT NOT NULL,
    PRIMARY KEY (hash, device_id)
) STRICT, WITHOUT ROWID;

-- Long-running operations, and what each did to which twin.
CREATE TABLE operations (
    id    TEXT NOT NULL PRIMARY KEY,
    ended INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    body  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE operation_results (
    operation TEXT NOT NULL,
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (operation, device_id, module_id)
) STRICT, WITHOUT ROWID;

-- Facts about the whole store, such as the number of partitions it was made with.
CREATE TABLE facts (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Twins that could not be read, noted when they were first found. The row itself stays where it is,
-- as evidence, until the identity is written or removed as a whole; then the note goes, too.
CREATE TABLE quarantine (
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    found_at  INTEGER NOT NULL,
    problem   TEXT NOT NULL,
    PRIMARY KEY (device_id, module_id)
) STRICT, WITHOUT ROWID;
