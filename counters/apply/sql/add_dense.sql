-- Add deltas, as add.sql does, to a good part of a lane's rows: they are found by one hash join with all of its partitions (the bounds on
-- slot leave the others out) instead of an index probe each, and written once (ON CONFLICT locks a row first and writes WAL for that, too). Half the time and two thirds of the WAL a row; many
-- times as slow where the part is small, so `transaction.is_dense` decides, and DENSE keeps the planner from the loop that it would prefer.
MERGE INTO counter AS c
USING unnest(%(keys)s::text[], %(slots)s::smallint[], %(deltas)s::bigint[], %(versions)s::bigint[]) AS a (key, slot, delta, version)
ON c.key = a.key AND c.slot = a.slot AND c.slot >= %(first)s AND c.slot < %(behind)s
WHEN MATCHED THEN UPDATE SET value = c.value + a.delta, version = greatest(c.version + 1, a.version)
WHEN NOT MATCHED THEN INSERT (key, slot, value, version) VALUES (a.key, a.slot, a.delta, a.version)
