-- Paths of twins that went back and forth, which policies leave alone.
CREATE TABLE frozen_paths (
    -- `device` or `device/module`
    twin        TEXT NOT NULL,
    -- JSON list of keys.
    path        TEXT NOT NULL,
    -- JSON list of who wrote there in turns.
    writers     TEXT NOT NULL,
    freeze_time TEXT NOT NULL,
    PRIMARY KEY (twin, path)
) STRICT, WITHOUT ROWID;
