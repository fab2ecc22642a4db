-- Delete cache entries that have not changed since they were seen.
-- KEYS  cache keys;  ARGV  the entry seen under each.  Returns how many were deleted.
local gone = 0
for i, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[i] then
        gone = gone + redis.call('DEL', key)
    end
end
return gone
