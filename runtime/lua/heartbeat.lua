#!lua flags=allow-oom
-- Record when something was last seen. Records older than a day are dropped.
-- KEYS  heartbeats (sorted set: names by seconds since 1970)
-- ARGV  name and seconds since it was seen, for each
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.set_repl(redis.REPL_NONE) -- a hint: it stays out of the AOF and its fsync
for i = 1, #ARGV, 2 do
    redis.call('ZADD', KEYS[1], string.format('%.3f', now - tonumber(ARGV[i + 1])), ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400)
