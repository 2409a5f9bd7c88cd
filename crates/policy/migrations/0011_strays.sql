-- Revisions that stand on twins and that this file never gave: it was lost, or is older than the twins. The
-- newest of each policy; what they have set stays until the policy is applied anew, under a higher number, or
-- deleted. An id as it stands there, also that of a configuration.
CREATE TABLE strays (
    policy_id TEXT    NOT NULL PRIMARY KEY,
    revision  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
