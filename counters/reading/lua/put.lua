-- Put values into the cache unless it has a newer version (I5). The same version is put again only to live longer.
-- An entry is "value version due", all in decimal; due: when half of its life is over, in milliseconds since 1970.
-- Versions are below 2^53, so Lua compares them exactly.
-- KEYS  the announced version of each lane
-- ARGV  seconds to live; seconds to live for values from a node that is behind the announced version; for each lane, the
--       version that the node had applied; then cache key, value, version and lane (from 1) of each counter
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttls, is_behind = {}, {}
for lane, key in ipairs(KEYS) do
    is_behind[lane] = tonumber(ARGV[2 + lane]) < tonumber(redis.call('GET', key) or 0)
    ttls[lane] = tonumber(is_behind[lane] and ARGV[2] or ARGV[1])
end
for i = 3 + #KEYS, #ARGV, 4 do
    local key, value, version, lane = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    local due = now + ttls[lane] * 500
    local old_version, old_due
    local old = redis.call('GET', key)
    if old then
        old_version, old_due = string.match(old, '^%S+ (%d+) (%d+)$')
        old_version, old_due = tonumber(old_version), tonumber(old_due)
    end
    if not old_version or old_version < version or old_version == version and old_due < due and not is_behind[lane] then
        redis.call('SET', key, string.format('%s %s %d', value, ARGV[i + 2], due), 'EX', ttls[lane])
    end
end
