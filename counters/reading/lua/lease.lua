-- Lease keys that the cache does not have: one caller of all gets the lease of a key and reads it, others wait for it.
-- KEYS  the epoch; then entry and lease of each key
-- ARGV  the epoch that begins if there is none; milliseconds that a lease lasts
-- Returns the epoch; then for each key its entry, or 1 if the caller has got the lease, or 0 if another one has it.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
local replies = {redis.call('GET', KEYS[1])}
for i = 2, #KEYS, 2 do
    local entry = redis.call('GET', KEYS[i])
    if not entry then
        entry = redis.call('SET', KEYS[i + 1], 1, 'NX', 'PX', ARGV[2]) and 1 or 0
    end
    replies[#replies + 1] = entry
end
return replies
