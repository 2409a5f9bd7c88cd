-- Checksums for the small rows, as twins and revisions have them (see store/row/sums.rs). A row
-- without one was written before, and is gone within a month.
ALTER TABLE requests ADD COLUMN checksum INTEGER;
ALTER TABLE enrollment_tokens ADD COLUMN checksum INTEGER;
ALTER TABLE enrollments ADD COLUMN checksum INTEGER;
ALTER TABLE operations ADD COLUMN checksum INTEGER;
ALTER TABLE operation_results ADD COLUMN checksum INTEGER;

-- Rows of any table that could not be read, noted when they were first found. `key` is a JSON array
-- with a text for each column of the row's key. The row itself stays where it is, as evidence, until
-- it is written or removed as a whole; then the note goes, too.
CREATE TABLE damaged_rows (
    table_name TEXT NOT NULL,
    key        TEXT NOT NULL,
    found_at   INTEGER NOT NULL,
    problem    TEXT NOT NULL,
    PRIMARY KEY (table_name, key)
) STRICT, WITHOUT ROWID;

INSERT INTO damaged_rows (table_name, key, found_at, problem)
SELECT 'twins', json_array(device_id, module_id), found_at, problem FROM quarantine;

DROP TABLE quarantine;
ALTER TABLE damaged_rows RENAME TO quarantine;
