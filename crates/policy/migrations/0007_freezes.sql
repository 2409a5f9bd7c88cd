-- Times in which policies change nothing, as somebody ordered them. Numbers are not given again. What
-- ended tells since when a policy has been open, and is removed when that does not matter any more.
CREATE TABLE freezes (
    number      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- JSON: ids of policies; empty: all.
    policies    TEXT    NOT NULL,
    start_time  TEXT    NOT NULL,
    -- Empty: until somebody ends it.
    end_time    TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    author      TEXT    NOT NULL,
    create_time TEXT    NOT NULL
) STRICT;
