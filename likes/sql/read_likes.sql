-- The rows of these users and items that there are. Cost: one primary-key probe each, in one of 16 partitions. OFFSET keeps the
-- planner from a hash join, which reads the whole table.
SELECT n - 1, at, liked, event, earlier, since
FROM unnest(%(items)s::text[], %(users)s::text[], %(slots)s::smallint[]) WITH ORDINALITY AS wanted (item, user_id, slot, n),
LATERAL (
    SELECT at, liked, event, earlier, since FROM user_likes AS l
    WHERE l.item = wanted.item AND l.user_id = wanted.user_id AND l.slot = wanted.slot OFFSET 0
) AS found
