-- Numbers among the searched values in the order of numbers: their texts have another one. The CASE
-- keeps whoever reads other entries from taking them for numbers.
CREATE INDEX twin_index_numbers ON twin_index
    (path, (CASE WHEN value >= 'n:' AND value < 'n;' THEN substr(value, 3)::float8 END))
    WHERE value >= 'n:' AND value < 'n;';

-- Who is connected, and in which hour each was last active (see index.rs). The texts are looked into as
-- they are: not every posture is JSONB, and within a text of it quotes have a backslash.
INSERT INTO twin_index (path, value, device_id, module_id)
SELECT 'connectionState', 's:Connected', device_id, module_id FROM twins
WHERE posture ~ '"agent":\{("version":"([^"\\]|\\.)*",)?"connected":true'
ON CONFLICT DO NOTHING;

INSERT INTO twin_index (path, value, device_id, module_id)
SELECT 'lastActivityTime', 's:' || greatest(
        substring(posture FROM '"connectedAt":"([^"]{13})') COLLATE "C",
        substring(posture FROM '"disconnectedAt":"([^"]{13})') COLLATE "C",
        substring(posture FROM '"lastSeenAt":"([^"]{13})') COLLATE "C",
        '0001-01-01T00'), device_id, module_id
FROM twins
ON CONFLICT DO NOTHING;
