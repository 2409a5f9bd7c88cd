-- Where actions of policies stand on twins. A row is written before what follows from it is done: what is
-- `calling` when the service ends was perhaps called, and is not called again by itself.
CREATE TABLE action_places (
    -- `device` or `device/module`
    twin            TEXT    NOT NULL,
    policy_id       TEXT    NOT NULL,
    action          TEXT    NOT NULL,
    -- The revision of the twin that changed anything here last.
    seen            INTEGER NOT NULL,
    holds           INTEGER NOT NULL CHECK (holds IN (0, 1)),
    -- The newest revision of the policy whose action this is, and the hash of its call (signed).
    revision        INTEGER NOT NULL,
    fingerprint     INTEGER NOT NULL,
    -- Number of the last cause.
    cause           INTEGER NOT NULL,
    -- `idle`, `waiting`, `due` or `calling`
    state           TEXT    NOT NULL,
    -- Of what is due or called; of what waits, `until_time` alone. Empty: none.
    since_time      TEXT    NOT NULL,
    until_time      TEXT    NOT NULL,
    begin_time      TEXT    NOT NULL,
    tries           INTEGER NOT NULL,
    called_revision INTEGER NOT NULL,
    -- The next cause came while it was called.
    again           INTEGER NOT NULL CHECK (again IN (0, 1)),
    change_time     TEXT    NOT NULL,
    PRIMARY KEY (twin, policy_id, action)
) STRICT, WITHOUT ROWID;

-- What came of calls; the newest of the hub are kept.
CREATE TABLE action_results (
    number     INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    policy_id  TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    action     TEXT    NOT NULL,
    device_id  TEXT    NOT NULL,
    -- Empty: of the device itself.
    module_id  TEXT    NOT NULL,
    cause      INTEGER NOT NULL,
    -- `succeeded`, `failed`, `unanswered`, `unknown` or `expired`
    outcome    TEXT    NOT NULL,
    status     INTEGER NOT NULL,
    -- JSON; empty: none, or too much to be kept.
    payload    TEXT    NOT NULL,
    error      TEXT    NOT NULL,
    -- Empty: it was not called.
    begin_time TEXT    NOT NULL,
    end_time   TEXT    NOT NULL
) STRICT;

CREATE INDEX action_results_of ON action_results (policy_id, device_id, number);
