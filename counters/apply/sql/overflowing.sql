-- Keys that would leave the range of bigint. Runs only after an add has failed for that. Cost: one index probe per key.
SELECT key FROM counter JOIN unnest(%(keys)s::text[], %(slots)s::smallint[], %(deltas)s::bigint[]) AS a (key, slot, delta) USING (key, slot)
WHERE value::numeric + delta NOT BETWEEN -9223372036854775808 AND 9223372036854775807
