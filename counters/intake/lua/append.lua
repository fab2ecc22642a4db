-- Append the batches of one flush to the journals of their lanes, all or none, and assign their position.
--
-- KEYS  clock, topology, closed, history, one copy, rates of this window, rates of the window before, (positions,
--       batches, increments, backlog, backlog of the shard's excess queues, shift, wake-up channel) for each lane, then a
--       key for each idempotency token
-- ARGV  batch id, number of writes, number of lanes, version of the topology that the batches were routed by
--       ("": a worker forwards them by the map of its shard), microseconds of a lease, number of replicas required,
--       seconds to keep a token, most increments and most bytes of a lane's backlog (0: any), most increments of a
--       shard's excess queues, most increments of a key in a window, microseconds of that window, number of keys that
--       count,
--       (payload, increments, name of the queue, number of the lane, 1 if a client waits for a result) for each lane, a
--       record for each token, (key, increments) for each key that counts
-- Returns {"appended", 1 if the replicas must confirm it, position, 1 or 0 for each lane: whether a task must be sent}.
--       Nothing was appended if it returns {"taken", 1 if the replicas must confirm it, record or false for each token},
--       {"unset"} (no clock, or that of another primary: see journal.py), {"moved"} (routed by an older topology),
--       {"closed"} (the number of lanes is being changed), {"uncovered"} (too few replicas) or {"over", (1 if its backlog
--       is full, increments in its shard's excess queues) for each lane, increments in the window for each key}: a limit
--       would be exceeded. What a worker forwards has no limits.
--
-- The position is the journal's clock in microseconds, strictly increasing, with room for one number per write. Numbers
-- stay below 2^53, so Lua's doubles hold them exactly. Repeating a batch id returns its existing position.
--
-- The window slides: what a key had in the window before counts by the share of it that the last `window` microseconds
-- still cover (as the sliding window counter of the library `limits`). Rates are hints like leases: they stay out of the AOF.
local FIXED, EACH, ARGS, PER_LANE = 7, 7, 13, 5
local CHUNK = 1000 -- arguments of a call; Lua's stack holds 8000
local clock, id, writes, lanes = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local version, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local tokens, records_at = FIXED + EACH * lanes, ARGS + PER_LANE * lanes
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

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- How many increments the excess queues of a shard have: the fields without `:bytes` of its backlog.
local function excess_of(backlog)
    local fields, sum = redis.call('HGETALL', backlog), 0
    for i = 1, #fields, 2 do
        if not string.find(fields[i], ':', 1, true) then sum = sum + tonumber(fields[i + 1]) end
    end
    return sum
end

local most, most_bytes, room = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local rate, window, counting = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local counts_at = records_at + #KEYS - tokens
local over, full, used, spilled = false, {}, {}, {}
if version then
    for i = 1, lanes do
        local at, arg = FIXED + EACH * (i - 1), ARGS + PER_LANE * (i - 1)
        local increments, queue, number = tonumber(ARGV[arg + 2]), ARGV[arg + 3], ARGV[arg + 4]
        if increments == 0 then
            full[i] = 0
        elseif queue == 'excess' then
            local backlog = KEYS[at + 4]
            spilled[backlog] = (spilled[backlog] or excess_of(backlog)) + increments
            over = over or spilled[backlog] > room
            full[i] = 0
        else
            local held = redis.call('HMGET', KEYS[at + 4], number, number .. ':bytes')
            local is_full = most > 0 and tonumber(held[1] or 0) >= most
                or most_bytes > 0 and tonumber(held[2] or 0) >= most_bytes
            full[i] = is_full and 1 or 0
            over = over or is_full
        end
    end
end
if counting > 0 then
    redis.set_repl(redis.REPL_NONE)
    local turn = math.floor(now / window)
    local current = tonumber(redis.call('HGET', KEYS[6], '') or -1)
    if current ~= turn then
        if current == turn - 1 then redis.call('RENAME', KEYS[6], KEYS[7]) else redis.call('DEL', KEYS[6], KEYS[7]) end
        redis.call('HSET', KEYS[6], '', turn)
    end
    local left = 1 - (now % window) / window
    for first = 1, counting, CHUNK do -- two look-ups for many keys
        local keys = {}
        for i = first, math.min(first + CHUNK - 1, counting) do keys[#keys + 1] = ARGV[counts_at + 2 * i - 1] end
        local has, had = redis.call('HMGET', KEYS[6], unpack(keys)), redis.call('HMGET', KEYS[7], unpack(keys))
        for n = 1, #keys do
            local i = first + n - 1
            used[i] = tonumber(has[n] or 0) + math.ceil(tonumber(had[n] or 0) * left)
            over = over or used[i] + tonumber(ARGV[counts_at + 2 * i]) > rate
        end
    end
    if not over then
        for i = 1, counting do redis.call('HINCRBY', KEYS[6], ARGV[counts_at + 2 * i - 1], ARGV[counts_at + 2 * i]) end
    end
    local lasts = math.ceil(2 * window / 1000)
    redis.call('PEXPIRE', KEYS[6], lasts)
    redis.call('PEXPIRE', KEYS[7], lasts)
    redis.set_repl(redis.REPL_ALL)
end
if over then
    local reply = {'over'}
    for i = 1, lanes do
        reply[2 * i] = full[i]
        reply[2 * i + 1] = excess_of(KEYS[FIXED + EACH * (i - 1) + 5])
    end
    for i = 1, counting do reply[1 + 2 * lanes + i] = used[i] end
    return reply
end

if version and version > in_force then redis.call('SET', KEYS[2], version) end
local position = math.max(now, tonumber(last) + 1)
local score = string.format('%.0f', position)
redis.call('SET', clock, string.format('%.0f', position + writes))
local reply = {'appended', confirm, score}
for i = 1, lanes do
    local at, arg = FIXED + EACH * (i - 1), ARGS + PER_LANE * (i - 1)
    local payload, increments, number = ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 4]
    redis.call('ZADD', KEYS[at + 1], score, id)
    redis.call('HSET', KEYS[at + 2], id, payload)
    redis.call('HSET', KEYS[at + 3], id, increments)
    redis.call('HINCRBY', KEYS[at + 4], number, increments)
    redis.call('HINCRBY', KEYS[at + 4], number .. ':bytes', #payload)
    redis.set_repl(redis.REPL_NONE) -- leases and wake-ups are hints: they stay out of the AOF
    local shift, wake = KEYS[at + 6], KEYS[at + 7]
    local held = redis.call('HMGET', shift, 'until', 'lingers')
    local lasts = tonumber(held[1] or 0) - now
    if lasts > 0 and lasts <= lease then -- as in hold.lua
        if held[2] or ARGV[arg + 5] == '1' then
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
for i = tokens + 1, #KEYS do
    redis.call('SET', KEYS[i], ARGV[records_at + i - tokens], 'EX', ARGV[7])
end
return reply
