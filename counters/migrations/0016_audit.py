"""The audit log, which takes new entries only, from whoever it may be. In the control database."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

CREATE = """
-- What an entry says, and the hash of the one before: moments as microseconds, so that no setting changes the text.
CREATE FUNCTION audit_hash(before text, entry counters_auditentry) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        before, entry.id, (extract(epoch FROM entry.at) * 1000000)::bigint, entry.by, entry.action, entry.target,
        entry.detail, entry.outcome, entry.address, entry.request_id, entry.role)::text, 'UTF8')), 'hex')
$$;

-- One entry after the other: whoever adds one waits for the transaction that added the last one.
CREATE FUNCTION audit_append() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    last record;
BEGIN
    PERFORM pg_advisory_xact_lock(31253);
    SELECT id, hash INTO last FROM counters_auditentry ORDER BY id DESC LIMIT 1;
    NEW.id := coalesce(last.id, 0) + 1;
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    NEW.hash := audit_hash(coalesce(last.hash, ''), NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_append BEFORE INSERT ON counters_auditentry FOR EACH ROW EXECUTE FUNCTION audit_append();

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log takes new entries only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON counters_auditentry
FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
"""
DROP = """
DROP TRIGGER audit_append ON counters_auditentry;
DROP TRIGGER audit_refuse ON counters_auditentry;
DROP FUNCTION audit_append(), audit_refuse(), audit_hash(text, counters_auditentry);
"""


class Migration(migrations.Migration):
    dependencies: ClassVar = [("counters", "0015_day_partitions")]
    operations: ClassVar = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("by", models.TextField()),
                ("action", models.TextField()),
                ("target", models.TextField()),
                ("detail", models.TextField(blank=True)),
                ("outcome", models.TextField(blank=True)),
                ("address", models.TextField(blank=True)),
                ("request_id", models.TextField(blank=True)),
                ("role", models.TextField(blank=True)),
                ("hash", models.TextField(blank=True)),
            ],
            options={
                "verbose_name": "audit log entry",
                "verbose_name_plural": "audit log",
                "default_permissions": ("view",),
            },
        ),
        migrations.RunSQL(CREATE, DROP),
    ]
