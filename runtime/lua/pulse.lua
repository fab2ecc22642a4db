-- Add what a process tells to the stream, by this Redis' clock, and forget what is older.
--
-- KEYS  stream
-- ARGV  what it tells, seconds to keep
local now = redis.call('TIME')
redis.call('XADD', KEYS[1], 'MINID', '~', string.format('%d000', now[1] - ARGV[2]), '*', 'told', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
