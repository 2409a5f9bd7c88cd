-- How many devices and modules there are, in one row. The triggers keep it in step with every insert
-- and removal, a restore included; a write to a twin that is there fires none of them.
CREATE TABLE population (
    only    INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    devices INTEGER NOT NULL,
    modules INTEGER NOT NULL
) STRICT;

INSERT INTO population (only, devices, modules)
SELECT 1, count(*) FILTER (WHERE module_id = ''), count(*) FILTER (WHERE module_id <> '') FROM twins;

CREATE TRIGGER twin_made AFTER INSERT ON twins BEGIN
    UPDATE population SET devices = devices + (NEW.module_id = ''),
        modules = modules + (NEW.module_id <> '');
END;

CREATE TRIGGER twin_removed AFTER DELETE ON twins BEGIN
    UPDATE population SET devices = devices - (OLD.module_id = ''),
        modules = modules - (OLD.module_id <> '');
END;
