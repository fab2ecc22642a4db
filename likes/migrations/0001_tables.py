"""The tables of likes. Run in every shard."""

from django.db import migrations

PARTITIONS = 16
SLOTS_EACH = 1024 // PARTITIONS


def partitions(table: str) -> str:
    return "\n".join(
        f"CREATE TABLE {table}_{n:02} PARTITION OF {table} FOR VALUES FROM ({n * SLOTS_EACH}) TO ({(n + 1) * SLOTS_EACH}) "
        "WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);"
        for n in range(PARTITIONS)
    )


MAKE = f"""
-- The newest event of each user and item, in the lane of the item's count. A row with `liked` false is a tombstone: it keeps
-- an older event that is late from liking again, and goes after the retention.
-- at: moment of the event in microseconds. earlier: the events before it as far as they may still matter (likes/state.py);
-- NULL: none. since: of a like, the moment since which it is liked, NULL if that is `at`, as for most; of a tombstone, the
-- version of the write that made it.
-- Fixed columns first, so a row has no padding; eight columns, so the bits of those that are null cost nothing.
CREATE TABLE user_likes (
    at bigint NOT NULL,
    slot smallint NOT NULL,
    liked boolean NOT NULL,
    item text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    event bytea NOT NULL,
    earlier bytea,
    since bigint,
    PRIMARY KEY (item, user_id, slot)
) PARTITION BY RANGE (slot);
{partitions("user_likes")}
CREATE INDEX user_likes_newest ON user_likes (item, coalesce(since, at) DESC, user_id) WHERE liked;
CREATE INDEX user_likes_tombstones ON user_likes (since) WHERE NOT liked;

-- The same by user, in the lane of `/likers/USER`.
CREATE TABLE liked_items (
    at bigint NOT NULL,
    slot smallint NOT NULL,
    liked boolean NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    item text COLLATE "C" NOT NULL,
    event bytea NOT NULL,
    earlier bytea,
    since bigint,
    PRIMARY KEY (user_id, item, slot)
) PARTITION BY RANGE (slot);
{partitions("liked_items")}
CREATE INDEX liked_items_newest ON liked_items (user_id, coalesce(since, at) DESC, item) WHERE liked;
CREATE INDEX liked_items_tombstones ON liked_items (since) WHERE NOT liked;

-- Every event that was new to a row of user_likes, by the version of its write: a partition for each day. It is written in
-- about that order, so a BRIN index finds a range of versions, and costs next to nothing.
CREATE TABLE like_events (
    position bigint NOT NULL,
    at bigint NOT NULL,
    slot smallint NOT NULL,
    liked boolean NOT NULL,
    item text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    event bytea NOT NULL
) PARTITION BY RANGE (position);
CREATE TABLE like_events_default PARTITION OF like_events DEFAULT;
CREATE INDEX like_events_position ON like_events USING brin (position) WITH (pages_per_range = 32, autosummarize = on);
"""
DROP = "DROP TABLE user_likes, liked_items, like_events"


class Migration(migrations.Migration):
    initial = True
    dependencies = [("counters", "0012_limits")]
    operations = [migrations.RunSQL(MAKE, DROP, hints={"shard": True})]
