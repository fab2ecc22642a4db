#!lua flags=allow-oom
-- The shift of a lane has applied all that it knows of: from now on every append wakes it, unless there is more already.
--
-- KEYS  positions, shift
-- ARGV  who asks, the score behind which it has not looked, microseconds of a lease
-- Returns 1 if it may wait on the list of wake-ups, 0 if there is more or another shift has the lease.
if #redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], '+inf', 'LIMIT', 0, 1) > 0 then return 0 end
if redis.call('HGET', KEYS[2], 'holder') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
redis.set_repl(redis.REPL_NONE)
redis.call('HSET', KEYS[2], 'lingers', 1, 'until', string.format('%.0f', time[1] * 1000000 + time[2] + tonumber(ARGV[3])))
return 1
