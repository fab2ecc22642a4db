"""Spill queues: which writes of a batch were deferred to the stale queue, and what a lane's spill queues have applied. Run
in every shard."""

from django.db import migrations

MAKE = """
-- The writes of the batch that were left to the lane's stale queue, one bit each like `writes`; NULL: none.
ALTER TABLE ledger ADD COLUMN deferred bytea;

-- How many batches of its spill queues a lane has applied, and the newest version among them.
ALTER TABLE apply_state
    ADD COLUMN spilled bigint NOT NULL DEFAULT 0,
    ADD COLUMN spilled_version bigint NOT NULL DEFAULT 0;
"""
DROP = """
ALTER TABLE ledger DROP COLUMN deferred;
ALTER TABLE apply_state DROP COLUMN spilled, DROP COLUMN spilled_version;
"""


class Migration(migrations.Migration):
    dependencies = [("counters", "0010_components")]
    operations = [migrations.RunSQL(MAKE, DROP, hints={"shard": True})]
