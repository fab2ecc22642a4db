-- Describe set-aside batches without their bytes, which may be large and many.
--
-- KEYS  the lane's hash of set-aside batches
-- ARGV  batch ids
-- Returns {position, reason, size in bytes} for each, false for a missing one
--
-- A value is the msgpack array (position, reason, data), see `set_aside.SetAside`. cmsgpack does not know msgpack's
-- binary type, so only the first two elements are decoded, after the array's one-byte header.
local found = {}
for i, id in ipairs(ARGV) do
    local value = redis.call('HGET', KEYS[1], id)
    if value then
        local _, position, reason = cmsgpack.unpack_limit(value, 2, 1)
        found[i] = {string.format('%.0f', position), reason, #value}
    else
        found[i] = false
    end
end
return found
