#!lua flags=no-writes
-- What the journals of a lane have that the caller does not know yet, in one round trip.
--
-- KEYS  (positions, batches, backlog) for each queue of the lane
-- ARGV  most bytes of all of them, number of the lane, then for each queue the score after which to begin
-- Returns the bytes that wait; if that is not too much, then for each queue {score of the oldest entry ("": none), number of
-- entries, id, score and bytes of each new entry}.
local reply = {0}
for i = 1, #KEYS, 3 do reply[1] = reply[1] + tonumber(redis.call('HGET', KEYS[i + 2], ARGV[2] .. ':bytes') or 0) end
if reply[1] > tonumber(ARGV[1]) then return reply end
for i = 1, #KEYS, 3 do
    local oldest = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    local queue = {oldest[2] or '', redis.call('ZCARD', KEYS[i])}
    local found = redis.call('ZRANGEBYSCORE', KEYS[i], '(' .. ARGV[2 + (i + 2) / 3], '+inf', 'WITHSCORES')
    for j = 1, #found, 2 do
        queue[#queue + 1] = found[j]
        queue[#queue + 1] = found[j + 1]
        queue[#queue + 1] = redis.call('HGET', KEYS[i + 1], found[j])
    end
    reply[#reply + 1] = queue
end
return reply
