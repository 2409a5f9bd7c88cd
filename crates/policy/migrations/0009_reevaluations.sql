-- Re-evaluations that somebody asked for. One that has not ended goes on after a restart behind `place`,
-- with the counts up to there; ended ones are removed after a while.
CREATE TABLE reevaluations (
    number       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- Of the caller, by which a repeated call is known; empty: none.
    request_id   TEXT    NOT NULL,
    -- Empty: all policies.
    policy_id    TEXT    NOT NULL,
    -- Which twins, in the query language; empty: all. It stays when policies change: each twin is
    -- decided on by what is in force then.
    filter       TEXT    NOT NULL,
    -- `waiting`, `running`, `succeeded`, `cancelled` or `failed`
    state        TEXT    NOT NULL,
    -- Whether somebody wants it to end.
    cancelling   INTEGER NOT NULL CHECK (cancelling IN (0, 1)),
    -- twin-store's token of the next page; empty: the first.
    place        TEXT    NOT NULL,
    -- NULL: not counted.
    total        INTEGER,
    evaluated    INTEGER NOT NULL,
    changed      INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    error        TEXT    NOT NULL,
    actor        TEXT    NOT NULL,
    create_time  TEXT    NOT NULL,
    update_time  TEXT    NOT NULL,
    -- Empty while it goes on.
    end_time     TEXT    NOT NULL
) STRICT;
