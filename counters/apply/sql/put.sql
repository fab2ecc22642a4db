-- Write known values (computed from rows read in this transaction, or from a set). Cost: as add.sql.
INSERT INTO counter AS c (key, slot, value, version, set_version)
SELECT * FROM unnest(
    %(keys)s::text[], %(slots)s::smallint[], %(values)s::bigint[], %(versions)s::bigint[], %(set_versions)s::bigint[])
ON CONFLICT (key, slot) DO UPDATE
SET value = excluded.value, version = greatest(c.version + 1, excluded.version),
    set_version = greatest(c.set_version, excluded.set_version)
