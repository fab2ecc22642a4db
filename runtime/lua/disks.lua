#!lua flags=allow-oom
-- Record how much room servers' disks have. Records older than a day are dropped.
-- KEYS  disks (hash: "SECONDS READING" by server; seconds since 1970)
-- ARGV  server and reading, for each
local now = redis.call('TIME')[1]
redis.set_repl(redis.REPL_NONE) -- a hint: it stays out of the AOF and its fsync
for i = 1, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], now .. ' ' .. ARGV[i + 1])
end
local known = redis.call('HGETALL', KEYS[1])
for i = 1, #known, 2 do
    if tonumber(string.match(known[i + 1], '^%d+')) < now - 86400 then redis.call('HDEL', KEYS[1], known[i]) end
end
