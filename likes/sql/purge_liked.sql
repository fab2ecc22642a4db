-- Delete some tombstones that no event can meet any more. Cost: a range of the index liked_items_tombstones, and an index
-- probe each. It waits for no lane; the conditions are repeated for rows that have changed meanwhile.
DELETE FROM liked_items AS l
USING (
    SELECT item, user_id, slot FROM liked_items WHERE NOT liked AND since < %(before)s LIMIT %(most)s FOR UPDATE SKIP LOCKED
) AS old
WHERE l.item = old.item AND l.user_id = old.user_id AND l.slot = old.slot AND NOT l.liked AND l.since < %(before)s
