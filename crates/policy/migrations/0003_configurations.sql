-- Configurations of IoT Hub as they are now. A deleted one stays as a row, so that no etag is given
-- to two contents of one id.
CREATE TABLE configurations (
    configuration_id TEXT    NOT NULL PRIMARY KEY,
    -- Rises with each change, also over deletion and creation; the etag is made of it.
    revision         INTEGER NOT NULL,
    -- JSON.
    body             TEXT    NOT NULL,
    create_time      TEXT    NOT NULL,
    update_time      TEXT    NOT NULL,
    deleted          INTEGER NOT NULL CHECK (deleted IN (0, 1))
) STRICT, WITHOUT ROWID;
