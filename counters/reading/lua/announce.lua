-- Announce a lane's version: from now on, values read from a node that is behind it are only cached briefly.
-- Returns which of these counters are cached, as places in the list of keys (from 1).
-- KEYS  the lane's announced version
-- ARGV  version, counter keys (msgpack; at most as many as Lua's stack holds: `cache._CHUNK`)
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1])
end
local keys = cmsgpack.unpack(ARGV[2])
for i, key in ipairs(keys) do keys[i] = 'c:' .. key end
local found = {}
for i, entry in ipairs(redis.call('MGET', unpack(keys))) do
    if entry then found[#found + 1] = i end
end
return found
