#!lua flags=no-writes
-- The next entries of a lane with their bytes, in one round trip.
--
-- KEYS  positions, batches
-- ARGV  the score after which to begin, maximum number of entries, bytes after which to end, number of replicas that the
--       journal has
-- Returns the replication id of the server ("" if the journal has no replicas), then a flat list: id, score, bytes (or
--       false) of each entry.
local history = ''
if tonumber(ARGV[4]) > 0 then
    history = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local reply, left = {history}, tonumber(ARGV[3])
for i = 1, #found, 2 do
    local batch = redis.call('HGET', KEYS[2], found[i])
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = found[i + 1]
    reply[#reply + 1] = batch
    left = left - (batch and #batch or 0)
    if left <= 0 then break end
end
return reply
