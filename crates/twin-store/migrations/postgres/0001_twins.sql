-- The same tables as the embedded store's, with `replicas` in addition. Ids are compared byte by
-- byte (COLLATE "C"), so that pages have the same order everywhere. Texts that are not JSON are
-- packed (store/postgres/text.rs), because TEXT holds no zero character. Documents are TEXT and not
-- JSONB: they are returned as they were written, and cost less than half to write.

-- One row per identity; a device has an empty module_id. The documents are JSON in columns of their
-- own, so that searches look into them; `body` is JSON with the rest (see store/row.rs). `checksum`
-- is a CRC-32 over the key and all columns, so that a flipped byte is found. `opaque`: a document
-- holds what JSONB cannot represent, so it is searched in memory. No column that changes with every
-- batch of events has an index, and pages are left room, so that updates stay on their page (HOT).
CREATE TABLE twins (
    device_id TEXT COLLATE "C" NOT NULL,
    module_id TEXT COLLATE "C" NOT NULL,
    revision  BIGINT NOT NULL,
    status    TEXT NOT NULL,
    tags      TEXT NOT NULL,
    desired   TEXT NOT NULL,
    reported  TEXT NOT NULL,
    posture   TEXT NOT NULL,
    body      TEXT NOT NULL,
    opaque    BOOLEAN NOT NULL,
    checksum  BIGINT NOT NULL,
    PRIMARY KEY (device_id, module_id)
) WITH (fillfactor = 85);

-- Searched values that change slowly, under their paths (see index.rs): who has it.
CREATE TABLE twin_index (
    path      TEXT COLLATE "C" NOT NULL,
    value     TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    module_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (path, value, device_id, module_id)
);

-- What an identity has, to be removed with it.
CREATE INDEX twin_index_of ON twin_index (device_id, module_id);

-- One row per partition, and with each commit it moves. `epoch` is the fence: whoever takes the
-- partition raises it, and a commit under an older one changes no row and is undone. `owner` is the
-- replica that works on it, empty when nobody does. `position` is the last telemetry message folded,
-- `published` the last change that is in TWINS, `log_floor` the last one that the log has forgotten;
-- `audit_sequence` and `audit_hash` are the end of the partition's chain of audit entries.
CREATE TABLE partitions (
    partition      INTEGER NOT NULL PRIMARY KEY,
    epoch          BIGINT NOT NULL,
    owner          TEXT COLLATE "C" NOT NULL,
    position       BIGINT NOT NULL,
    revision       BIGINT NOT NULL,
    published      BIGINT NOT NULL,
    log_floor      BIGINT NOT NULL,
    audit_sequence BIGINT NOT NULL,
    audit_hash     BYTEA NOT NULL
) WITH (fillfactor = 20);

-- The running replicas; one whose lease has ended counts as gone. The clock is this database's.
CREATE TABLE replicas (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    address    TEXT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

-- Every change behind `log_floor`, in order. A change ends in its checksum (store/row.rs).
CREATE TABLE log (
    partition INTEGER NOT NULL,
    revision  BIGINT NOT NULL,
    change    BYTEA NOT NULL,
    PRIMARY KEY (partition, revision)
);

-- What every revision of an identity changed. Times are nanoseconds since 1970, `changes` are names
-- between commas; `checksum` covers everything.
CREATE TABLE history (
    device_id      TEXT COLLATE "C" NOT NULL,
    module_id      TEXT COLLATE "C" NOT NULL,
    revision       BIGINT NOT NULL,
    first_revision BIGINT NOT NULL,
    at             BIGINT NOT NULL,
    first_at       BIGINT NOT NULL,
    actor          TEXT NOT NULL,
    cause          TEXT NOT NULL,
    changes        TEXT NOT NULL,
    patch          TEXT NOT NULL,
    undo           TEXT NOT NULL,
    routine        BOOLEAN NOT NULL,
    trace_parent   TEXT,
    checksum       BIGINT NOT NULL,
    PRIMARY KEY (device_id, module_id, revision)
);

-- For the retention by age, and to find whose history has grown.
CREATE INDEX history_at ON history (at);

-- Administrative changes; per partition a chain of hashes (see audit.rs).
CREATE TABLE audit (
    partition    INTEGER NOT NULL,
    sequence     BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    actor        TEXT NOT NULL,
    action       TEXT NOT NULL,
    resource     TEXT NOT NULL,
    detail       TEXT NOT NULL,
    trace_parent TEXT,
    hash         BYTEA NOT NULL,
    PRIMARY KEY (partition, sequence)
);

-- Answers to calls that may be repeated.
CREATE TABLE requests (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    answer      BYTEA NOT NULL,
    at          BIGINT NOT NULL
);

CREATE INDEX requests_at ON requests (at);

-- Enrolment tokens by the SHA-256 of the token; an empty device_id lets any device in.
CREATE TABLE enrollment_tokens (
    hash       BYTEA NOT NULL PRIMARY KEY,
    device_id  TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    uses_max   BIGINT NOT NULL
);

-- Who used which token. The nonce makes a repeated call recognisable.
CREATE TABLE enrollments (
    hash      BYTEA NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    nonce     TEXT NOT NULL,
    PRIMARY KEY (hash, device_id)
);

-- Long-running operations, and what each did to which twin.
CREATE TABLE operations (
    id    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    ended BOOLEAN NOT NULL,
    at    BIGINT NOT NULL,
    body  TEXT NOT NULL
);

CREATE TABLE operation_results (
    operation TEXT COLLATE "C" NOT NULL,
    device_id TEXT COLLATE "C" NOT NULL,
    module_id TEXT COLLATE "C" NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (operation, device_id, module_id)
);

-- Twins that could not be read, noted when they were first found. The row itself stays where it is,
-- as evidence, until the identity is written or removed as a whole; then the note goes, too.
CREATE TABLE quarantine (
    device_id TEXT COLLATE "C" NOT NULL,
    module_id TEXT COLLATE "C" NOT NULL,
    found_at  BIGINT NOT NULL,
    problem   TEXT NOT NULL,
    PRIMARY KEY (device_id, module_id)
);
