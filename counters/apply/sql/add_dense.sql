-- Add deltas, like add.sql, to a large part of a lane's rows. One hash join with all of the lane's partitions (the bounds
-- on slot exclude the others) finds them instead of an index probe each, and each row is written once (ON CONFLICT locks
-- a row first and writes WAL for that, too). Half the time and two thirds of the WAL per row, but many times as slow for
-- a small part. So `transaction.is_dense` decides, and DENSE keeps the planner from the nested loop that it prefers.
MERGE INTO counter AS c
USING unnest(%(keys)s::text[], %(slots)s::smallint[], %(deltas)s::bigint[], %(versions)s::bigint[]) AS a (key, slot, delta, version)
ON c.key = a.key AND c.slot = a.slot AND c.slot >= %(first)s AND c.slot < %(behind)s
WHEN MATCHED THEN UPDATE SET value = c.value + a.delta, version = greatest(c.version + 1, a.version)
WHEN NOT MATCHED THEN INSERT (key, slot, value, version) VALUES (a.key, a.slot, a.delta, a.version)
