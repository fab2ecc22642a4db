-- Append the batches of one flush to the journals of their lanes, all or none, and assign their position.
--
-- KEYS  clock, topology, closed, (positions, batches, shift, wake-up channel) for each lane, then a key for each
--       idempotency token
-- ARGV  batch id, number of writes, number of lanes, version of the topology that the batches were routed by
--       ("": a worker forwards them by the map of its shard), microseconds of a lease,
--       (payload, 1 if a client waits for a result) for each lane, seconds to keep a token, a record for each token
-- Returns {"appended", position, 1 or 0 for each lane: whether a task must be sent}. Nothing was written if it returns
--       {"taken", record or false for each token}, {"unset"} (no clock: see journal.py), {"moved"} (routed by an older
--       topology) or {"closed"} (the number of lanes is being changed).
--
-- The position is the journal's clock in microseconds, strictly increasing, with room for one number per write. Numbers
-- stay below 2^53, so Lua's doubles hold them exactly. Repeating a batch id returns its existing position.
local FIXED, EACH = 3, 4
local clock, id, writes, lanes = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local version, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local tokens = FIXED + EACH * lanes
local last = redis.call('GET', clock)
if not last then return {'unset'} end

local known = redis.call('ZSCORE', KEYS[FIXED + 1], id)
if known then -- its tasks may not have been sent
    local reply = {'appended', string.format('%.0f', known)}
    for i = 1, lanes do reply[2 + i] = 1 end
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
if taken then return {'taken', unpack(records)} end

if version and version > in_force then redis.call('SET', KEYS[2], version) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local position = math.max(now, tonumber(last) + 1)
local score = string.format('%.0f', position)
redis.call('SET', clock, string.format('%.0f', position + writes))
local reply = {'appended', score}
for i = 1, lanes do
    local at = FIXED + EACH * (i - 1)
    redis.call('ZADD', KEYS[at + 1], score, id)
    redis.call('HSET', KEYS[at + 2], id, ARGV[4 + 2 * i])
    redis.set_repl(redis.REPL_NONE) -- leases and wake-ups are hints: they stay out of the AOF
    local shift, wake = KEYS[at + 3], KEYS[at + 4]
    local held = redis.call('HMGET', shift, 'until', 'lingers')
    if held[1] and tonumber(held[1]) > now then
        if held[2] or ARGV[5 + 2 * i] == '1' then
            redis.call('HDEL', shift, 'lingers')
            redis.call('PUBLISH', wake, '')
        end
        reply[2 + i] = 0
    else
        redis.call('DEL', shift)
        redis.call('HSET', shift, 'until', string.format('%.0f', now + lease))
        reply[2 + i] = 1
    end
    redis.set_repl(redis.REPL_ALL)
end
local ttl = ARGV[6 + 2 * lanes]
for i = tokens + 1, #KEYS do
    redis.call('SET', KEYS[i], ARGV[6 + 2 * lanes + i - tokens], 'EX', ttl)
end
return reply
