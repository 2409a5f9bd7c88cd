-- What devices are provisioned by: the id scope of the hub, enrolments of single devices and of
-- groups. `kind` says which of them, `body` is JSON with everything else (see provisioning.rs); keys
-- in it are sealed. `checksum` is a CRC-32 over the other columns.
CREATE TABLE provisioning (
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    body     TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
