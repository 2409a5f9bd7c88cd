-- Operations that go on are looked for every other second, and ended ones when old ones are forgotten;
-- neither is to read the rows of all that are kept.
CREATE INDEX operations_running ON operations (id) WHERE NOT ended;
CREATE INDEX operations_ended ON operations (at) WHERE ended;
