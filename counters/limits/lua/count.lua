-- Count units that callers use in sliding windows, and say whether more are free.
-- A window is a hash: number of a part of the window (a 120th of it, since 1970) → units used in that part. A part leaves
-- the window when its begin is a window ago, so a unit counts for 59 to 60 seconds of a minute: a client that keeps to
-- its quota is never refused, and no 59 seconds see more than the quota. The hash expires a window after its last use.
-- KEYS  a window each
-- ARGV  for each: quota, milliseconds of the window, units used already, units wanted
-- Returns for each: units used, whether the wanted ones are among them (1 or 0), milliseconds until the oldest leave, and
-- until as many as wanted are free (0 if they were).
local PARTS = 120
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for i, key in ipairs(KEYS) do
    local quota, window = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
    local more, wanted = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
    local length = window / PARTS
    local used, parts = more, {}
    local stored = redis.call('HGETALL', key)
    for n = 1, #stored, 2 do
        local begin, units = tonumber(stored[n]) * length, tonumber(stored[n + 1])
        if begin + window <= now then
            redis.call('HDEL', key, stored[n])
        else
            used = used + units
            parts[#parts + 1] = {begin, units}
        end
    end
    local is_free = used + wanted <= quota
    if is_free then
        used, more = used + wanted, more + wanted
    end
    if more > 0 then
        local part = math.floor(now / length)
        redis.call('HINCRBY', key, string.format('%d', part), string.format('%d', more))
        redis.call('PEXPIRE', key, window)
        parts[#parts + 1] = {part * length, more}
    end
    table.sort(parts, function(a, b) return a[1] < b[1] end)
    local renews = parts[1] and parts[1][1] + window - now or 0
    local wait, free = 0, quota - used
    if not is_free then
        wait = window
        for _, part in ipairs(parts) do
            free = free + part[2]
            if free >= wanted then
                wait = part[1] + window - now
                break
            end
        end
    end
    answers[i] = {used, is_free and 1 or 0, math.ceil(renews), math.ceil(wait)}
end
return answers
