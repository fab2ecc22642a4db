-- Put values into the cache unless it has the same or a newer version (I5).
-- An entry is "value version", both in decimal. Versions are below 2^53, so Lua compares them exactly.
-- KEYS  the announced version of each lane
-- ARGV  seconds to live; seconds to live for values from a node that is behind the announced version; for each lane, the
--       version that the node had applied; then cache key, value, version and lane (from 1) of each counter
local ttls = {}
for lane, key in ipairs(KEYS) do
    local announced = tonumber(redis.call('GET', key) or 0)
    ttls[lane] = tonumber(ARGV[2 + lane]) < announced and ARGV[2] or ARGV[1]
end
for i = 3 + #KEYS, #ARGV, 4 do
    local key, value, version = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local old = redis.call('GET', key)
    local at = old and tonumber(string.match(old, ' (%d+)$'))
    if not at or at < tonumber(version) then
        redis.call('SET', key, value .. ' ' .. version, 'EX', ttls[tonumber(ARGV[i + 3])])
    end
end
