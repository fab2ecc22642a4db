#!lua flags=allow-oom
-- Remove batches from a journal, and what they had in its backlog.
--
-- KEYS  positions, batches, increments, backlog
-- ARGV  number of the lane, batch ids (at most as many as Lua's stack holds: `journal._CHUNK`)
--
-- An entry without its increments was put there by an older version or by an operator, and is not part of the backlog.
local number = ARGV[1]
local increments, bytes = 0, 0
for i = 2, #ARGV do
    local count = redis.call('HGET', KEYS[3], ARGV[i])
    if count then
        increments = increments + tonumber(count)
        bytes = bytes + redis.call('HSTRLEN', KEYS[2], ARGV[i])
    end
end
redis.call('ZREM', KEYS[1], unpack(ARGV, 2))
redis.call('HDEL', KEYS[2], unpack(ARGV, 2))
redis.call('HDEL', KEYS[3], unpack(ARGV, 2))
if redis.call('EXISTS', KEYS[1]) == 0 then -- whatever has been miscounted, it ends here
    redis.call('HDEL', KEYS[4], number, number .. ':bytes')
    redis.call('DEL', KEYS[3])
else
    redis.call('HINCRBY', KEYS[4], number, -increments)
    redis.call('HINCRBY', KEYS[4], number .. ':bytes', -bytes)
end
