#!lua flags=no-writes
-- The next entries of a lane with their bytes, in one round trip.
--
-- KEYS  positions, batches
-- ARGV  the score after which to begin, maximum number of entries, number of replicas that the journal has
-- Returns the replication id of the server ("" if the journal has no replicas), then a flat list: id, score, bytes (or
--       false) of each entry.
local history = ''
if tonumber(ARGV[3]) > 0 then
    history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local reply = {history}
for i = 1, #found, 2 do
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
    reply[#reply + 1] = redis.call('HGET', KEYS[2], found[i])
end
return reply
