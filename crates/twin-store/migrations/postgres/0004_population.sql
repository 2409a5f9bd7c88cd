-- How many devices and modules there are: the sum of all rows. A commit counts what it made and
-- removed in the row of the first partition it has locked, so that replicas do not wait for each
-- other; a row alone says nothing, and may be negative.
CREATE TABLE population (
    partition INTEGER NOT NULL PRIMARY KEY,
    devices   BIGINT NOT NULL,
    modules   BIGINT NOT NULL
) WITH (fillfactor = 20);

INSERT INTO population (partition, devices, modules)
SELECT 0, count(*) FILTER (WHERE module_id = ''), count(*) FILTER (WHERE module_id <> '') FROM twins;
