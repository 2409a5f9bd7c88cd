-- Who made a revision, and why. Empty for those that were made before this was kept: their authors
-- stand in the audit log.
ALTER TABLE revisions ADD COLUMN author TEXT NOT NULL DEFAULT '';
ALTER TABLE revisions ADD COLUMN note TEXT NOT NULL DEFAULT '';
