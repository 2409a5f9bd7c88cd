-- Policies as they are now. A deleted one stays as a row, so that its revisions are never given
-- to another content: leaves of twins carry `policy:<id>@<revision>`.
CREATE TABLE policies (
    policy_id          TEXT    NOT NULL PRIMARY KEY,
    -- Last revision given; only rises, also over deletion and creation.
    revision           INTEGER NOT NULL,
    -- Revision at which anything but the description changed last.
    effective_revision INTEGER NOT NULL,
    -- Order of creation; breaks ties of priority.
    created_order      INTEGER NOT NULL,
    -- The sweep that must have looked at all twins since the last change.
    sweep              INTEGER NOT NULL,
    create_time        TEXT    NOT NULL,
    update_time        TEXT    NOT NULL,
    deleted            INTEGER NOT NULL CHECK (deleted IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Every content a policy ever had. Rows are never changed.
CREATE TABLE revisions (
    policy_id   TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    -- JSON.
    content     TEXT    NOT NULL,
    create_time TEXT    NOT NULL,
    PRIMARY KEY (policy_id, revision)
) STRICT, WITHOUT ROWID;

-- Stream sequence of the last message of `TWINS_{p}` that was evaluated.
CREATE TABLE positions (
    partition INTEGER NOT NULL PRIMARY KEY,
    sequence  INTEGER NOT NULL
) STRICT;

-- One row: counters, and which sweeps are wanted and done.
CREATE TABLE state (
    id                 INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    last_created_order INTEGER NOT NULL,
    sweep_wanted       INTEGER NOT NULL,
    sweep_done         INTEGER NOT NULL,
    -- What the last complete sweep found.
    twins_evaluated    INTEGER NOT NULL,
    twins_changed      INTEGER NOT NULL,
    twins_failed       INTEGER NOT NULL
) STRICT;

-- A new store has looked at no twin yet: the first sweep is wanted.
INSERT INTO state VALUES (1, 0, 1, 0, 0, 0, 0);
