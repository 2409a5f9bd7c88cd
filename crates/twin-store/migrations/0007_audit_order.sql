-- The audit log by time, and by what people ask it for: without them the newest entry is found by
-- walking every chain. The key (partition, sequence) stands behind the columns of each.
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_actor ON audit (actor, at);
CREATE INDEX audit_action ON audit (action, at);
CREATE INDEX audit_resource ON audit (resource, at);
