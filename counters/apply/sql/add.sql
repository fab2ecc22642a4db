-- Add deltas: one row per key, keys sorted. Cost: one primary-key probe per key, in one of 16 partitions.
INSERT INTO counter AS c (key, slot, value, version)
SELECT * FROM unnest(%(keys)s::text[], %(slots)s::smallint[], %(deltas)s::bigint[], %(versions)s::bigint[])
ON CONFLICT (key, slot) DO UPDATE
SET value = c.value + excluded.value, version = greatest(c.version + 1, excluded.version)
