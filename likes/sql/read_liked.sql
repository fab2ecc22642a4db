-- As read_likes.sql, of the copy by user.
SELECT n - 1, at, liked, event, earlier, since
FROM unnest(%(items)s::text[], %(users)s::text[], %(slots)s::smallint[]) WITH ORDINALITY AS wanted (item, user_id, slot, n),
LATERAL (
    SELECT at, liked, event, earlier, since FROM liked_items AS l
    WHERE l.item = wanted.item AND l.user_id = wanted.user_id AND l.slot = wanted.slot OFFSET 0
) AS found
