-- publish.lua - one event into the log and to everyone who may want it.
--
-- KEYS: log, meta
-- ARGV: gen, owner, epoch   the fence, as claim.lua gave it
--       seq                 number of this event within the claim, from 1
--       head                {"id":"<exchange>:<partition>:
--       key, frame, digest  what the log keeps
--       channel, ...        one for every prefix of the routing key
--
-- Answers the stream id. A seq that was seen before has no effect: the answer is the log's tip if it was the
-- last one, else "". Errors: FENCED (another owner, another epoch, or the log is gone: claim anew),
-- HOLE (an event before this one is missing: send from the first unconfirmed).
local log, meta = KEYS[1], KEYS[2]
local epoch, key = ARGV[3], ARGV[6]
local m = redis.call('HMGET', meta, 'gen', 'owner', 'epoch', 'seq', 'tip')

if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] or m[3] ~= epoch then
    return redis.error_reply('FENCED claimed by ' .. tostring(m[2]) .. ' in generation ' .. tostring(m[1]))
end
local seq, last = tonumber(ARGV[4]), tonumber(m[4])
if seq ~= last + 1 then
    if seq > last then
        return redis.error_reply('HOLE expected ' .. (last + 1))
    end
    return seq == last and m[5] or ''
end
local id = redis.call('XADD', log, 'NOMKSTREAM', '*', 'k', key, 'f', ARGV[7], 'h', ARGV[8])
if not id then
    return redis.error_reply('FENCED the log is gone')
end
redis.call('HSET', meta, 'seq', ARGV[4], 'tip', id)
local name = epoch .. ':' .. id
local message = name .. ' ' .. #key .. ' ' .. key .. ARGV[5] .. name .. '",' .. ARGV[7]
for i = 9, #ARGV do
    redis.call('PUBLISH', ARGV[i], message)
end
return id
