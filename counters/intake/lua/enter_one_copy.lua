-- Accept writes with one copy, if this is the server that the Sentinels call the primary.
--
-- KEYS  one copy
-- ARGV  that server's run id
-- Returns 1, or 0 with nothing changed.
if string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 1)
return 1
