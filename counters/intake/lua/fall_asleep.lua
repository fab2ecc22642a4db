-- The worker of a shard waits for a message, unless the journal has more for it.
-- KEYS  positions, asleep;  ARGV  the score behind which it has not looked yet
-- gives 1 if it may wait, 0 if there is more
if #redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'LIMIT', 0, 1) > 0 then return 0 end
redis.set_repl(redis.REPL_NONE) -- a hint: not worth a place in the AOF, nor its fsync
redis.call('SET', KEYS[2], 1)
return 1
