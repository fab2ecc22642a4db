-- Delete cache entries that still are what somebody saw.
-- KEYS  cache keys;  ARGV  the entry seen under each.  Returns how many were deleted.
local gone = 0
for i, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[i] then
        gone = gone + redis.call('DEL', key)
    end
end
return gone
