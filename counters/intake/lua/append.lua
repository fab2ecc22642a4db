-- Append the batches of one flush to the journals of their lanes, all or none, and assign their position.
--
-- KEYS  clock, topology, closed, history, one copy, (positions, batches, shift, wake-up channel) for each lane, then a
--       key for each idempotency token
-- ARGV  batch id, number of writes, number of lanes, version of the topology that the batches were routed by
--       ("": a worker forwards them by the map of its shard), microseconds of a lease, number of replicas required,
--       (payload, 1 if a client waits for a result) for each lane, seconds to keep a token, a record for each token
-- Returns {"appended", 1 if the replicas must confirm it, position, 1 or 0 for each lane: whether a task must be sent}.
--       Nothing was appended if it returns {"taken", 1 if the replicas must confirm it, record or false for each token},
--       {"unset"} (no clock, or that of another primary: see journal.py), {"moved"} (routed by an older topology),
--       {"closed"} (the number of lanes is being changed) or {"uncovered"} (too few replicas).
--
-- The position is the journal's clock in microseconds, strictly increasing, with room for one number per write. Numbers
-- stay below 2^53, so Lua's doubles hold them exactly. Repeating a batch id returns its existing position.
local FIXED, EACH = 5, 4
local clock, id, writes, lanes = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local version, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local tokens = FIXED + EACH * lanes
local last = redis.call('GET', clock)
if not last then return {'unset'} end

local replicas, confirm = tonumber(ARGV[6]), 0
if replicas > 0 then
    local info = redis.call('INFO', 'replication')
    if not string.find(info, 'role:master', 1, true) then return redis.error_reply('READONLY This is a replica.') end
    if redis.call('EXISTS', KEYS[5]) == 0 then
        local _, online = string.gsub(info, 'state=online', '')
        if online < replicas then return {'uncovered'} end
        confirm = 1
    end
    if redis.call('GET', KEYS[4]) ~= string.match(info, 'master_replid:(%x+)') then return {'unset'} end
end

local known = redis.call('ZSCORE', KEYS[FIXED + 1], id)
if known then -- its tasks may not have been sent
    if confirm == 1 then redis.call('SET', clock, last) end -- its confirmation covers the write that is repeated
    local reply = {'appended', confirm, string.format('%.0f', known)}
    for i = 1, lanes do reply[3 + i] = 1 end
    return reply
end

local in_force = tonumber(redis.call('GET', KEYS[2]) or 0)
if version then
    if redis.call('EXISTS', KEYS[3]) == 1 then return {'closed'} end
    if version < in_force then return {'moved'} end
end

local records, taken = {}, false
for i = tokens + 1, #KEYS do
    local record = redis.call('GET', KEYS[i])
    taken = taken or record
    records[#records + 1] = record
end
if taken then
    if confirm == 1 then redis.call('SET', clock, last) end -- likewise
    return {'taken', confirm, unpack(records)}
end

if version and version > in_force then redis.call('SET', KEYS[2], version) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local position = math.max(now, tonumber(last) + 1)
local score = string.format('%.0f', position)
redis.call('SET', clock, string.format('%.0f', position + writes))
local reply = {'appended', confirm, score}
for i = 1, lanes do
    local at = FIXED + EACH * (i - 1)
    redis.call('ZADD', KEYS[at + 1], score, id)
    redis.call('HSET', KEYS[at + 2], id, ARGV[5 + 2 * i])
    redis.set_repl(redis.REPL_NONE) -- leases and wake-ups are hints: they stay out of the AOF
    local shift, wake = KEYS[at + 3], KEYS[at + 4]
    local held = redis.call('HMGET', shift, 'until', 'lingers')
    local lasts = tonumber(held[1] or 0) - now
    if lasts > 0 and lasts <= lease then -- as in hold.lua
        if held[2] or ARGV[6 + 2 * i] == '1' then
            redis.call('HDEL', shift, 'lingers')
            redis.call('PUBLISH', wake, '')
        end
        reply[3 + i] = 0
    else
        redis.call('DEL', shift)
        redis.call('HSET', shift, 'until', string.format('%.0f', now + lease))
        reply[3 + i] = 1
    end
    redis.set_repl(redis.REPL_ALL)
end
local ttl = ARGV[7 + 2 * lanes]
for i = tokens + 1, #KEYS do
    redis.call('SET', KEYS[i], ARGV[7 + 2 * lanes + i - tokens], 'EX', ttl)
end
return reply
