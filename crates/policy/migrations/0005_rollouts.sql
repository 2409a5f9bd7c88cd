-- Rollouts of revisions: at most one for each, kept for ever. That of a policy's effective revision is
-- the one in force; a policy without one there has its revision everywhere.
CREATE TABLE rollouts (
    policy_id TEXT    NOT NULL,
    revision  INTEGER NOT NULL,
    -- Rises with every change of the row.
    version   INTEGER NOT NULL,
    -- The sweep that must have looked at all twins since the last change of what is in force.
    sweep     INTEGER NOT NULL,
    -- JSON.
    body      TEXT    NOT NULL,
    PRIMARY KEY (policy_id, revision)
) STRICT, WITHOUT ROWID;
