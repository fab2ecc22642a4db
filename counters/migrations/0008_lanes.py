"""Lanes: a state row, a place in the ledger and a topology entry for each. Run in every shard.

What is there becomes lane 0 of 1, so a shard goes on as it was until `manage.py lanes` (or `migrate_all`, once) gives it more. The ledger's
primary key is built anew: seven days of batch ids. Applying waits for that, in the journal.
"""

from django.db import migrations

MAKE = """
-- NULL: from before there were lanes; the shard has one.
ALTER TABLE shard_state ADD COLUMN lanes smallint;

ALTER TABLE apply_state ADD COLUMN lane smallint;
UPDATE apply_state SET lane = 0;
ALTER TABLE apply_state DROP COLUMN singleton, ADD PRIMARY KEY (lane);

-- The batches of one flush share an id; each lane enters its own.
ALTER TABLE ledger ADD COLUMN lane smallint NOT NULL DEFAULT 0;
ALTER TABLE ledger DROP CONSTRAINT ledger_pkey, ADD PRIMARY KEY (id, lane);

ALTER TABLE forwarded ADD COLUMN lane smallint NOT NULL DEFAULT 0, ADD COLUMN to_lane smallint NOT NULL DEFAULT 0;
ALTER TABLE forwarded DROP CONSTRAINT forwarded_pkey, ADD PRIMARY KEY (id, lane, shard, to_lane);
"""
DROP = """
ALTER TABLE forwarded DROP CONSTRAINT forwarded_pkey, ADD PRIMARY KEY (id, shard);
ALTER TABLE forwarded DROP COLUMN lane, DROP COLUMN to_lane;
ALTER TABLE ledger DROP CONSTRAINT ledger_pkey, ADD PRIMARY KEY (id);
ALTER TABLE ledger DROP COLUMN lane;
DELETE FROM apply_state WHERE lane <> 0;
ALTER TABLE apply_state DROP COLUMN lane, ADD COLUMN singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton);
ALTER TABLE shard_state DROP COLUMN lanes;
"""


class Migration(migrations.Migration):
    dependencies = [("counters", "0007_room_for_updates")]
    operations = [migrations.RunSQL(MAKE, DROP, hints={"shard": True})]
