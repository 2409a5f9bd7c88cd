-- The audit log by time, and by what people ask it for: without them the newest entry is found by
-- walking every chain. Texts are compared byte by byte, so that what is below a resource is a range.
CREATE INDEX audit_at ON audit (at, partition, sequence);
CREATE INDEX audit_actor ON audit (actor COLLATE "C", at, partition, sequence);
CREATE INDEX audit_action ON audit (action COLLATE "C", at, partition, sequence);
CREATE INDEX audit_resource ON audit (resource COLLATE "C", at, partition, sequence);
