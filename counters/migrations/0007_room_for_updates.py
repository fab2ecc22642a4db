"""Room in each page of the counters for a second version of all its rows. Run in every shard; pages that are full stay so.

A window changes a good part of a page's rows in one transaction, and only the next one can clear away the old versions. Where they do
not fit beside the new ones, rows move to other pages, each with a new entry in the index: that was most of the cost of a row, and
made a table under load 17 times as large as its rows. Price: a table of counters that are never written again takes 1.8 times the room.
"""

from django.db import migrations

PARTITIONS = 16


def fill(percent: int) -> str:
    """All partitions of the counters with this fillfactor."""
    return "\n".join(f"ALTER TABLE counter_{n:02} SET (fillfactor = {percent});" for n in range(PARTITIONS))


class Migration(migrations.Migration):
    dependencies = [("counters", "0006_reconciliation")]
    operations = [migrations.RunSQL(fill(45), fill(80), hints={"shard": True})]
