-- Configurations are carried out: they have a place in the one order of creation, by which ties of
-- priority are broken. Those that are there are ordered by their time, behind all policies.
ALTER TABLE configurations ADD COLUMN created_order INTEGER NOT NULL DEFAULT 0;

UPDATE configurations SET created_order = (SELECT last_created_order FROM state)
    + (SELECT count(*) FROM configurations AS other
       WHERE (other.create_time, other.configuration_id)
          <= (configurations.create_time, configurations.configuration_id));

UPDATE state SET last_created_order = last_created_order + (SELECT count(*) FROM configurations),
                 sweep_wanted = sweep_wanted + 1
    WHERE EXISTS (SELECT 1 FROM configurations WHERE NOT deleted);
