-- claim.lua - become the owner of a partition.
--
-- KEYS: log, meta
-- ARGV: owner        who claims (a name no other process has)
--       new epoch    used if one must be born
--       known epoch  the epoch in which Redis last confirmed an event to this owner, or ""
--       known id     that event's id
--       lease_ms     the tick lease is taken for so long
--
-- Answers {gen, epoch, tip, floor, acked, born}. An epoch is born when there is none, when the log is gone, and
-- when its tip lies below what had been confirmed to us: then a failover lost its tail, and ids may come again.
local log, meta = KEYS[1], KEYS[2]

local function below(a, b)
    local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
    local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
    if not a_ms or not b_ms then
        return false
    end
    a_ms, a_n, b_ms, b_n = tonumber(a_ms), tonumber(a_n), tonumber(b_ms), tonumber(b_n)
    return a_ms < b_ms or (a_ms == b_ms and a_n < b_n)
end

local m = redis.call('HMGET', meta, 'epoch', 'tip', 'floor', 'acked')
local epoch, tip, floor, acked = m[1], m[2], m[3], m[4]
local born = 0

if redis.call('EXISTS', log) == 0 then
    -- The only way to make an empty stream: a consumer group that does not stay.
    redis.call('XGROUP', 'CREATE', log, 'born', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', log, 'born')
    epoch, tip, floor, acked = false, '0-0', '0-0', '0-0'
elseif not tip then
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
    tip = last[1] and last[1][1] or '0-0'
end
if not epoch or (epoch == ARGV[3] and below(tip, ARGV[4])) then
    epoch, floor, born = ARGV[2], tip, 1
end
acked = acked or '0-0'
if below(tip, acked) then
    acked = tip
end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local gen = redis.call('HINCRBY', meta, 'gen', 1)
redis.call('HSET', meta, 'epoch', epoch, 'tip', tip, 'floor', floor or '0-0', 'acked', acked, 'seq', 0, 'owner', ARGV[1],
    'lease', ARGV[1], 'lease_until_ms', string.format('%.0f', now_ms + ARGV[5]))
return {gen, epoch, tip, floor or '0-0', acked, born}
