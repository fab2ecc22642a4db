"""Functions that make and drop the partition of a day, with the owner's rights: a worker's role may not change tables.

They take only a table that has such partitions, which is one with a default partition.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

CREATE = """
CREATE FUNCTION create_day(parent text, day date, lower text, upper text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM pg_partitioned_table
    WHERE partrelid = format('%I', parent)::regclass AND partstrat = 'r' AND partdefid <> 0;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has no partition for each day', parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                   parent || to_char(day, '_YYYYMMDD'), parent, lower, upper);
END $$;
CREATE FUNCTION drop_day(parent text, day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    name text := parent || to_char(day, '_YYYYMMDD');
BEGIN
    PERFORM FROM pg_inherits JOIN pg_partitioned_table ON partrelid = inhparent
    WHERE inhrelid = format('%I', name)::regclass AND inhparent = format('%I', parent)::regclass AND partdefid <> 0;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is no day of table %', name, parent USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('DROP TABLE %I', name);
END $$;
REVOKE ALL ON FUNCTION create_day(text, date, text, text), drop_day(text, date) FROM PUBLIC;
"""
DROP = "DROP FUNCTION create_day(text, date, text, text), drop_day(text, date)"


class Migration(migrations.Migration):
    dependencies: ClassVar = [("counters", "0014_lanes_pages")]
    operations: ClassVar = [migrations.RunSQL(CREATE, DROP, hints={"shard": True})]
