#!lua flags=allow-oom
-- Take, renew or hand over a lane's lease.
--
-- KEYS  shift
-- ARGV  the shift that asks ("" for none), the new holder ("" for a task being sent), microseconds of a lease
-- Returns 1, or 0 with nothing changed if another shift has the lease.
local held = redis.call('HMGET', KEYS[1], 'until', 'holder')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local lasts, most = tonumber(held[1] or 0) - now, tonumber(ARGV[3])
local live = lasts > 0 and lasts <= most -- one that lasts longer is from before the clock was set back
if live and held[2] and held[2] ~= ARGV[1] then return 0 end
redis.set_repl(redis.REPL_NONE) -- a hint: it stays out of the AOF and its fsync
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + tonumber(ARGV[3])))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], 'holder', ARGV[2]) end
return 1
