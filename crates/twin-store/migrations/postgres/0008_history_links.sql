-- The revision of the identity before this one, 0 for one that needs none; rows from before the column
-- do not know. So a hole in a history is noticed, whatever made it.
ALTER TABLE history ADD COLUMN previous BIGINT;
