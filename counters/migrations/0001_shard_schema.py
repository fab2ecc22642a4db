"""The tables of a shard. Run in every shard (`hints={"shard": True}`, see sharding.databases.Router), never in the control database."""

from django.db import migrations

PARTITIONS = 16
SLOTS_EACH = 1024 // PARTITIONS

COUNTER = """
-- key first: one index serves the upsert, the lookup and the listing by prefix. "C": byte order, the same on every machine.
-- version is the place in the journal of the operation that changed the row last (microseconds), so it is updated_at as well.
CREATE TABLE counter (
    key text COLLATE "C" NOT NULL,
    slot smallint NOT NULL,
    value bigint NOT NULL,
    version bigint NOT NULL,
    set_version bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (key, slot)
) PARTITION BY RANGE (slot);
""" + "\n".join(
    f"CREATE TABLE counter_{n:02} PARTITION OF counter FOR VALUES FROM ({n * SLOTS_EACH}) TO ({(n + 1) * SLOTS_EACH}) "
    "WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);"
    for n in range(PARTITIONS)
)

BOOKS = """
-- Ids are UUIDv7, so a range of ids is a range of time: the primary key alone makes an id unique, and old partitions can be dropped.
CREATE TABLE ledger (
    id uuid PRIMARY KEY,
    position bigint NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);

-- One row for each operation whose result was asked for, and for each that was rejected.
CREATE TABLE outcome (
    id uuid NOT NULL,
    index integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    status text NOT NULL CHECK (status IN ('applied', 'rejected')),
    value bigint,
    version bigint,
    reason text,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, index, key)
) PARTITION BY RANGE (id);

-- Where the operations of a batch went whose slots another shard owns.
CREATE TABLE forwarded (
    id uuid NOT NULL,
    shard smallint NOT NULL,
    forwarded_id uuid NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, shard)
) PARTITION BY RANGE (id);

CREATE TABLE idempotency (
    token bytea NOT NULL,
    record bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (applied_at);
CREATE INDEX idempotency_token ON idempotency (token);

CREATE TABLE ledger_default PARTITION OF ledger DEFAULT;
CREATE TABLE outcome_default PARTITION OF outcome DEFAULT;
CREATE TABLE forwarded_default PARTITION OF forwarded DEFAULT;
CREATE TABLE idempotency_default PARTITION OF idempotency DEFAULT;

-- Which shard this is, and the topology in force.
CREATE TABLE shard_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    shard smallint NOT NULL,
    topology_version bigint NOT NULL,
    owners smallint[] NOT NULL CHECK (cardinality(owners) = 1024)
);

-- How far the shard is: newest version applied, newest version of a set or reset. Small and apart, as each transaction changes it.
CREATE TABLE apply_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last_version bigint NOT NULL,
    last_set_version bigint NOT NULL
);
INSERT INTO apply_state (last_version, last_set_version) VALUES (0, 0);
"""

DROP = "DROP TABLE counter, ledger, outcome, forwarded, idempotency, shard_state, apply_state"


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.RunSQL(COUNTER + BOOKS, DROP, hints={"shard": True})]
