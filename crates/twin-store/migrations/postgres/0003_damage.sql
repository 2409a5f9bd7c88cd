-- Checksums for the small rows, as twins and revisions have them (see store/row/sums.rs). A row
-- without one was written before, and is gone within a month.
ALTER TABLE requests ADD COLUMN checksum BIGINT;
ALTER TABLE enrollment_tokens ADD COLUMN checksum BIGINT;
ALTER TABLE enrollments ADD COLUMN checksum BIGINT;
ALTER TABLE operations ADD COLUMN checksum BIGINT;
ALTER TABLE operation_results ADD COLUMN checksum BIGINT;

-- Rows of any table that could not be read, noted when they were first found. `key` is a JSON array
-- with a text for each column of the row's key. The row itself stays where it is, as
-- evidence, until it is written or removed as a whole; then the note goes, too. Until now nothing
-- was noted here, so there is nothing to take over.
DROP TABLE quarantine;
CREATE TABLE quarantine (
    table_name TEXT COLLATE "C" NOT NULL,
    key        TEXT COLLATE "C" NOT NULL,
    found_at   BIGINT NOT NULL,
    problem    TEXT NOT NULL,
    PRIMARY KEY (table_name, key)
);
