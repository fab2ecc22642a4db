"""Indexes for what an operator looks through, newest first: rejected operations, forwarded batches. Run in every shard.

By time and not by id: a forwarded batch's id is a hash, so only `applied_at` orders all rows. `status` is not in the index of
rejected operations, as it has no others.

Cost: one entry of about 100 bytes for each *rejected* operation (an overflow, a version that is not the one in If-Match), none for an
applied one: a shard's usual writes do not touch it. One of 48 bytes for each forwarded batch. They go with their partition.
Making them reads seven days of these two tables and holds writes to them off meanwhile: they wait in the journal.
"""

from django.db import migrations

MAKE = """
CREATE INDEX outcome_rejected ON outcome (applied_at, id, index, key) WHERE status = 'rejected';
CREATE INDEX forwarded_newest ON forwarded (applied_at, id, shard);
"""
DROP = "DROP INDEX outcome_rejected, forwarded_newest"


class Migration(migrations.Migration):
    dependencies = [("counters", "0003_counter")]
    operations = [migrations.RunSQL(MAKE, DROP, hints={"shard": True})]
