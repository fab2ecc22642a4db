-- Events of the log in the order of the journal, of users who are not removed. Cost: the blocks of the BRIN index that may
-- have the range, and a sort of what is in it.
SELECT position, item, user_id, liked, at, event FROM like_events
WHERE position >= %(first)s AND position < %(behind)s AND user_id IS NOT NULL ORDER BY position, item, user_id
