-- What devices are provisioned by: the id scope of the hub, enrolments of single devices and of
-- groups. `kind` says which of them, `body` is JSON with everything else (see provisioning.rs); keys
-- in it are sealed. `checksum` is a CRC-32 over the other columns.
CREATE TABLE provisioning (
    kind     TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    body     TEXT NOT NULL,
    checksum BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
