-- Put values into the cache unless it has the same or a newer version (I5).
-- KEYS  cache keys;  ARGV  seconds to live, then value and version for each key
-- An entry is "value version", both in decimal. Versions are below 2^53, so Lua compares them exactly.
local ttl = ARGV[1]
for i, key in ipairs(KEYS) do
    local value, version = ARGV[2 * i], ARGV[2 * i + 1]
    local old = redis.call('GET', key)
    local at = old and tonumber(string.match(old, ' (%d+)$') or '')
    if not at or at < tonumber(version) then
        redis.call('SET', key, value .. ' ' .. version, 'EX', ttl)
    end
end
