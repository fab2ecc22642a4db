-- Set the journal's clock to a version at least, and note whose clock it is.
--
-- KEYS  clock, history
-- ARGV  the newest version in use, 1 if the journal has replicas
--
-- Returns the clock.
--
-- The history is the replication id of the server: it changes when a replica is promoted, and when a server restarts.
local last = redis.call('GET', KEYS[1])
if not last or tonumber(last) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1])
    last = ARGV[1]
end
if ARGV[2] == '1' then
    redis.call('SET', KEYS[2], string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)'))
end
return last
