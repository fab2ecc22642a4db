#!lua flags=no-writes
-- The next entries of a lane with their bytes, in one round trip.
--
-- KEYS  positions, batches
-- ARGV  the score after which to begin, maximum number of entries
-- Returns a flat list: id, score, bytes (or false) of each entry.
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local reply = {}
for i = 1, #found, 2 do
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
    reply[#reply + 1] = redis.call('HGET', KEYS[2], found[i])
end
return reply
