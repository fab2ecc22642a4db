#!lua flags=allow-oom
-- Move batches from a lane's journal to that of its stale queue, each under its id and position.
--
-- KEYS  (positions, batches, increments, backlog) of the lane, the same of its stale queue, decided
-- ARGV  number of the lane, batch ids
-- Returns how many were moved. A batch is always in exactly one of the two journals.
local number = ARGV[1]
local moved, increments, bytes = 0, 0, 0
for i = 2, #ARGV do
    local id = ARGV[i]
    local score, data = redis.call('ZSCORE', KEYS[1], id), redis.call('HGET', KEYS[2], id)
    if score and data then
        local count = redis.call('HGET', KEYS[3], id)
        redis.call('ZADD', KEYS[5], score, id)
        redis.call('HSET', KEYS[6], id, data)
        if count then
            redis.call('HSET', KEYS[7], id, count)
            increments = increments + tonumber(count)
            bytes = bytes + #data
        end
        redis.call('SREM', KEYS[9], id)
        redis.call('ZREM', KEYS[1], id)
        redis.call('HDEL', KEYS[2], id)
        redis.call('HDEL', KEYS[3], id)
        moved = moved + 1
    end
end
redis.call('HINCRBY', KEYS[8], number, increments)
redis.call('HINCRBY', KEYS[8], number .. ':bytes', bytes)
if redis.call('EXISTS', KEYS[1]) == 0 then -- as in remove.lua
    redis.call('HDEL', KEYS[4], number, number .. ':bytes')
    redis.call('DEL', KEYS[3])
else
    redis.call('HINCRBY', KEYS[4], number, -increments)
    redis.call('HINCRBY', KEYS[4], number .. ':bytes', -bytes)
end
return moved
