-- What people changed, until twin-store has it in its audit log. A row is written with the change
-- itself, so that no crash leaves a change without its entry.
CREATE TABLE audit_entries (
    -- Order of the changes; never used twice.
    number       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- A UUID by which twin-store knows an entry that comes again.
    request_id   TEXT    NOT NULL,
    -- `operator:<name>`
    actor        TEXT    NOT NULL,
    -- `policy.create`, `policy.update` or `policy.delete`
    action       TEXT    NOT NULL,
    policy_id    TEXT    NOT NULL,
    -- JSON.
    detail       TEXT    NOT NULL,
    change_time  TEXT    NOT NULL,
    -- W3C; empty: none.
    trace_parent TEXT    NOT NULL
) STRICT;
