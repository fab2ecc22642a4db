-- Write states that are new or differ from the row read in this transaction; rows sorted by the primary key. Cost: one
-- primary-key probe each, and an entry of user_likes_newest or user_likes_tombstones.
INSERT INTO user_likes (at, slot, liked, item, user_id, event, earlier, since)
SELECT * FROM unnest(
    %(ats)s::bigint[], %(slots)s::smallint[], %(likeds)s::boolean[], %(items)s::text[], %(users)s::text[], %(ids)s::bytea[],
    %(earliers)s::bytea[], %(sinces)s::bigint[])
ON CONFLICT (item, user_id, slot) DO UPDATE
SET at = excluded.at, liked = excluded.liked, event = excluded.event, earlier = excluded.earlier, since = excluded.since
