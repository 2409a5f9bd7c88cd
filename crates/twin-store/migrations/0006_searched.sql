-- Numbers among the searched values in the order of numbers: their texts have another one.
CREATE INDEX twin_index_numbers ON twin_index (path, CAST(substr(value, 3) AS REAL))
    WHERE value >= 'n:' AND value < 'n;';

-- Who is connected, and in which hour each was last active (see index.rs). A posture that is damaged
-- has no entry until it is written again.
INSERT OR IGNORE INTO twin_index (path, value, device_id, module_id)
SELECT 'connectionState', 's:Connected', device_id, module_id FROM twins
WHERE CASE WHEN json_valid(posture) THEN json_extract(posture, '$.agent.connected') = 1 END;

INSERT OR IGNORE INTO twin_index (path, value, device_id, module_id)
SELECT 'lastActivityTime', 's:' || substr(max(
        coalesce(json_extract(posture, '$.agent.connectedAt'), ''),
        coalesce(json_extract(posture, '$.agent.disconnectedAt'), ''),
        coalesce(json_extract(posture, '$.agent.lastSeenAt'), ''),
        '0001-01-01T00'), 1, 13), device_id, module_id
FROM twins WHERE json_valid(posture);
