-- Put the batches of one flush into the journals of their shards, all or none, and hand out their position.
--
-- KEYS  clock, (positions, batches, asleep) for each shard, then a key for each idempotency token
-- ARGV  batch id, number of writes, number of shards, a payload for each shard, seconds to keep a token, a record for each token
-- gives {"appended", position, 1 or 0 for each shard: whether its worker was asleep}, {"taken", record or false for each token} (nothing was written), or {"unset"} (no clock: see journal.py)
--
-- The position is the journal's clock in microseconds, strictly rising and with room for one number per write. Numbers stay below
-- 2^53, so Lua's doubles hold them exactly. A repeat of the same batch id gives the position it has.
local clock, id, writes, shards = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local last = redis.call('GET', clock)
if not last then return {'unset'} end

local known = redis.call('ZSCORE', KEYS[2], id)
if known then -- whoever was asleep when it was appended has perhaps not been told
    local reply = {'appended', string.format('%.0f', known)}
    for i = 1, shards do reply[2 + i] = 1 end
    return reply
end

local records, taken = {}, false
for i = 2 + 3 * shards, #KEYS do
    local record = redis.call('GET', KEYS[i])
    taken = taken or record
    records[#records + 1] = record
end
if taken then return {'taken', unpack(records)} end

local time = redis.call('TIME')
local position = math.max(time[1] * 1000000 + time[2], tonumber(last) + 1)
local score = string.format('%.0f', position)
redis.call('SET', clock, string.format('%.0f', position + writes))
local reply = {'appended', score}
for i = 1, shards do
    redis.call('ZADD', KEYS[3 * i - 1], score, id)
    redis.call('HSET', KEYS[3 * i], id, ARGV[3 + i])
    redis.set_repl(redis.REPL_NONE) -- a hint: not worth a place in the AOF
    reply[2 + i] = redis.call('DEL', KEYS[3 * i + 1])
    redis.set_repl(redis.REPL_ALL)
end
local ttl = ARGV[4 + shards]
for i = 2 + 3 * shards, #KEYS do
    redis.call('SET', KEYS[i], ARGV[4 + shards + i - (1 + 3 * shards)], 'EX', ttl)
end
return reply
