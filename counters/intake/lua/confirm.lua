-- Repeat a write, so that a confirmation after this script covers everything that the journal has by now.
--
-- KEYS  clock, one copy
-- ARGV  number of replicas required
-- Returns {"confirm" (the replicas must confirm it), "alone" (writes are accepted with one copy) or "uncovered" (too few
--       replicas are connected), the replication id of the server, the clock: every entry of now is before it}.
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then return redis.error_reply('READONLY This is a replica.') end
local history = string.match(info, 'master_replid:(%x+)')
local clock = redis.call('GET', KEYS[1])
if not clock then return redis.error_reply('ERR The journal has no clock.') end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'alone', history, clock} end
local _, online = string.gsub(info, 'state=online', '')
if online < tonumber(ARGV[1]) then return {'uncovered', history, clock} end
redis.call('SET', KEYS[1], clock)
return {'confirm', history, clock}
