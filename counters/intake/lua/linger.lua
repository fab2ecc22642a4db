#!lua flags=allow-oom
-- Mark a lane's shift as lingering, so that every append wakes it, unless entries follow already.
--
-- KEYS  positions, shift
-- ARGV  the shift that asks, the score after which to look for entries, microseconds of a lease
-- Returns 1 if the shift may wait for wake-ups, 0 if entries follow or another shift has the lease.
if #redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], '+inf', 'LIMIT', 0, 1) > 0 then return 0 end
if redis.call('HGET', KEYS[2], 'holder') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
redis.set_repl(redis.REPL_NONE)
redis.call('HSET', KEYS[2], 'lingers', 1, 'until', string.format('%.0f', time[1] * 1000000 + time[2] + tonumber(ARGV[3])))
return 1
