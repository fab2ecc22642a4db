"""Which writes a batch has in its lane, and of how many operations a rejected one was. Run in every shard.

So an id with a number that was never handed out is unknown, and a bulk write is rejected only if all of it was. Rows from
before do not tell: there every number counts as handed out, and one rejected operation as its whole lane.
"""

from django.db import migrations

MAKE = """
ALTER TABLE ledger ADD COLUMN writes bytea;
ALTER TABLE outcome ADD COLUMN among integer NOT NULL DEFAULT 1;
"""
DROP = """
ALTER TABLE ledger DROP COLUMN writes;
ALTER TABLE outcome DROP COLUMN among;
"""


class Migration(migrations.Migration):
    dependencies = [("counters", "0008_lanes")]
    operations = [migrations.RunSQL(MAKE, DROP, hints={"shard": True})]
