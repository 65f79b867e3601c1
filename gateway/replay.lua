-- replay.lua - a page of a partition's log, with what it takes to judge whether it is complete, in one atomic step.
--
-- KEYS: log, meta
-- ARGV: id to begin behind, entries at most
--
-- Answers {epoch (false while the log is not born), floor, tip, entries}.
local m = redis.call('HMGET', KEYS[2], 'epoch', 'floor', 'tip')
return {m[1], m[2] or '0-0', m[3] or '0-0', redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
