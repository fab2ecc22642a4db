-- What batches that were set aside say of themselves, without their bytes: they may be large, and there may be many.
--
-- KEYS  the lane's hash of such batches
-- ARGV  batch ids
-- Returns {position, reason, bytes} for each, false for one that is gone
--
-- A value is the msgpack array (position, reason, data), see `set_aside.SetAside`. cmsgpack does not know msgpack's
-- binary type, so only the first two are decoded, from behind the array's one byte.
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
