-- Which of these counters the cache has; and from now on, what is read from a node that is behind `version` is not kept for long.
-- KEYS  where the announced version stands;  ARGV  version, counter keys (msgpack; as many as Lua's stack holds: `cache._CHUNK`)
-- gives the places (from 1) of those that it has
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
