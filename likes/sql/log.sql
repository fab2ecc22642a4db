-- Log events. Cost: a row each, appended, and a summary of the BRIN index for each 32 pages.
INSERT INTO like_events (position, at, slot, liked, item, user_id, event)
SELECT * FROM unnest(
    %(positions)s::bigint[], %(ats)s::bigint[], %(slots)s::smallint[], %(likeds)s::boolean[], %(items)s::text[], %(users)s::text[],
    %(ids)s::bytea[])
