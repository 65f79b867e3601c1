-- tick.lua - the heartbeat of a partition, and its trimming.
--
-- KEYS: log, meta
-- ARGV: 1 process         who calls
--       2 lease_ms        the lease is held for so long; 0 gives it back
--       3 connected       1 or 0: what the tick says of the broker
--       4 new epoch       used if the partition has none yet
--       5 channel         of the ticks; "" to go on trimming without a tick
--       6 gen             of our claim, "" if we are not the owner
--       7 acked           newest id whose delivery is acked for certain, "" for none
--       8 above           entries above `acked` at most, -1 if the caller cannot know
--       9..12             max_age_ms, max_events, max_bytes, hard_max_bytes; 0 is no limit
--      13 group           the consumer group that holds trimming back
--
-- Only who holds the lease ticks and trims; anyone may take a lease that has run out. Answers {held, epoch, tip, floor,
-- entries, bytes, trimmed, lost, more}: held 0 (then nothing else) or 1; trimmed counts removed entries, lost those
-- of them that were not yet acked or not yet read by the group; more is 1 if trimming stopped half-way.
--
-- The log is bounded by age exactly, by count exactly, and by bytes as well as MEMORY USAGE can tell (it weighs a
-- sample of the stream's nodes). `floor` becomes the newest id that was removed, so it is read before it goes. By count that
-- would mean to read all that goes; instead the log is trimmed to one entry too many, and the oldest then is the one.
-- That may not pass what is protected, so it is done only where fewer entries are protected than are kept; otherwise
-- entries are read page by page.
local log, meta = KEYS[1], KEYS[2]
local PAGE_ENTRIES, PAGE_BYTES, SAMPLES, ROUNDS = 1000, 1000000, 20, 8

local function parse(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms or 0), tonumber(n or 0)
end
local function below(a, b)
    local a_ms, a_n = parse(a)
    local b_ms, b_n = parse(b)
    return a_ms < b_ms or (a_ms == b_ms and a_n < b_n)
end
local function after(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    return ms .. '-' .. string.format('%.0f', tonumber(n) + 1)
end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local m = redis.call('HMGET', meta, 'lease', 'lease_until_ms', 'epoch', 'tip', 'floor', 'acked', 'gen', 'owner')

-- A lease that lies further ahead than any lease lasts was given before the clock went back.
local left = tonumber(m[2] or 0) - now_ms
if m[1] and m[1] ~= ARGV[1] and left > 0 and left <= 60000 then
    return {0}
end
if m[6] and m[7] == ARGV[6] and m[8] == ARGV[1] and ARGV[7] ~= '' and below(m[6], ARGV[7]) then
    redis.call('HSET', meta, 'acked', ARGV[7])
    m[6] = ARGV[7]
end

local epoch, tip, floor = m[3], m[4], m[5]
local exists = redis.call('EXISTS', log) == 1
if not epoch or not exists then
    -- Born here, or the log was deleted under us: a new epoch also fences the owner, who then claims.
    if not exists then
        redis.call('XGROUP', 'CREATE', log, 'born', '$', 'MKSTREAM')
        redis.call('XGROUP', 'DESTROY', log, 'born')
        tip, m[6] = '0-0', '0-0'
    elseif not tip then
        local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
        tip = last[1] and last[1][1] or '0-0'
    end
    epoch, floor = ARGV[4], tip
    redis.call('HSET', meta, 'epoch', epoch, 'tip', tip, 'floor', floor, 'acked', m[6] or '0-0')
end
tip, floor = tip or '0-0', floor or '0-0'

local trimmed, lost, more = 0, 0, 0
local entries, bytes = 0, 0

local function measure()
    entries = redis.call('XLEN', log)
    bytes = entries > 0 and redis.call('MEMORY', 'USAGE', log, 'SAMPLES', SAMPLES) or 0
end
local function removed(count, id)
    trimmed = trimmed + count
    if count > 0 and below(floor, id) then
        floor = id
    end
end
local function trim_before(id)
    local last = redis.call('XREVRANGE', log, '(' .. id, '-', 'COUNT', 1)[1]
    if last then
        removed(redis.call('XTRIM', log, 'MINID', id), last[1])
    end
end
local function trim_to(keep)
    removed(redis.call('XTRIM', log, 'MAXLEN', keep + 1), floor)
    local last = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    if last and entries > keep then
        removed(redis.call('XTRIM', log, 'MAXLEN', keep), last[1])
    end
end

-- Trimming may remove ids below `limit`; `protected` entries at most lie above it (-1: unknown).
local function protection()
    local limit, protected = after(m[6] or '0-0'), tonumber(ARGV[8])
    for _, row in ipairs(redis.call('XINFO', 'GROUPS', log)) do
        local g = {}
        for i = 1, #row, 2 do
            g[row[i]] = row[i + 1]
        end
        if g.name == ARGV[13] then
            local oldest = after(g['last-delivered-id'])
            if g.pending > 0 then
                oldest = redis.call('XPENDING', log, g.name)[2] or oldest
                protected = -1
            elseif type(g.lag) ~= 'number' then
                protected = -1
            elseif protected >= 0 then
                protected = math.max(protected, g.lag)
            end
            if below(oldest, limit) then
                limit = oldest
            end
        end
    end
    return limit, protected
end

-- How many entries may stay.
local function wanted(max_events, max_bytes)
    local keep = entries
    if max_events > 0 then
        keep = math.min(keep, max_events)
    end
    if max_bytes > 0 and bytes > max_bytes then
        keep = math.min(keep, math.floor(entries * max_bytes / bytes))
    end
    return keep
end

local function trim_page(limit, want)
    local count = math.max(1, math.min(want, PAGE_ENTRIES, math.floor(PAGE_BYTES * entries / (bytes + 1))))
    local rows = redis.call('XRANGE', log, '-', '(' .. limit, 'COUNT', count)
    if #rows > 0 then
        local id = rows[#rows][1]
        removed(redis.call('XTRIM', log, 'MINID', after(id)), id)
        more = (want > #rows and #rows == count) and 1 or 0
    end
    return #rows == want
end

local function trim()
    local max_age_ms, max_events, max_bytes, hard = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
    local limit, protected = protection()
    if max_age_ms > 0 then
        local old = string.format('%.0f-0', math.max(0, now_ms - max_age_ms))
        trim_before(below(old, limit) and old or limit)
    end
    measure()
    -- Entries of unlike size make the estimate wrong; a few rounds set it right.
    for _ = 1, ROUNDS do
        local keep = wanted(max_events, max_bytes)
        if protected >= 0 then
            keep = math.max(keep, protected)
        end
        if keep >= entries then
            break
        end
        if protected >= 0 then
            trim_to(keep)
        elseif not trim_page(limit, entries - keep) then
            break
        end
        measure()
    end
    if hard == 0 or bytes <= hard or more == 1 then
        return
    end
    trim_before(limit)
    measure()
    local before = trimmed
    for _ = 1, ROUNDS do
        if bytes > hard then
            trim_to(wanted(0, hard))
            measure()
        end
    end
    lost = trimmed - before
end

trim()
redis.call('HSET', meta, 'floor', floor, 'lease', ARGV[1], 'lease_until_ms',
    string.format('%.0f', now_ms + tonumber(ARGV[2])))
if ARGV[5] ~= '' then
    local count = redis.call('HINCRBY', meta, 'ticks', 1)
    redis.call('PUBLISH', ARGV[5], count .. ' ' .. epoch .. ' ' .. tip .. ' ' .. floor .. ' ' .. ARGV[3])
end
return {1, epoch, tip, floor, entries, bytes, trimmed, lost, more}
