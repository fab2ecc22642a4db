-- Put values into the cache unless it has the same or a newer version (I5).
-- An entry is "value version", both in decimal. Versions are below 2^53, so Lua compares them exactly.
-- KEYS  where the version stands that the shard's worker has announced
-- ARGV  seconds to live; seconds for values from a node that is behind what was announced; version that the node had applied;
--       then cache key, value and version for each counter
local announced = tonumber(redis.call('GET', KEYS[1]) or 0)
local ttl = tonumber(ARGV[3]) < announced and ARGV[2] or ARGV[1]
for i = 4, #ARGV, 3 do
    local key, value, version = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local old = redis.call('GET', key)
    local at = old and tonumber(string.match(old, ' (%d+)$'))
    if not at or at < tonumber(version) then
        redis.call('SET', key, value .. ' ' .. version, 'EX', ttl)
    end
end
