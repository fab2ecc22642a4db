#!lua flags=allow-oom
-- Release a shift's lease, so that the next append to its lane sends a task.
--
-- KEYS  positions, shift
-- ARGV  the shift that asks, the score after which to look for entries
-- Returns 1, or 0 if entries follow: then the shift keeps the lease.
if #redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[2], '+inf', 'LIMIT', 0, 1) > 0 then return 0 end
if redis.call('HGET', KEYS[2], 'holder') == ARGV[1] then
    redis.set_repl(redis.REPL_NONE)
    redis.call('DEL', KEYS[2])
end
return 1
