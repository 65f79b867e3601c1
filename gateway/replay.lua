-- replay.lua - a page of a partition's log, with what it takes to judge whether it is complete, in one atomic step.
--
-- KEYS: log, meta
-- ARGV: id to begin behind, entries at most, bytes after which no more are taken
--
-- Answers {epoch (false while the log is not born), floor, tip, entries, 1 if they reach to the log's end}.
local m = redis.call('HMGET', KEYS[2], 'epoch', 'floor', 'tip')
local rows, bytes, from, whole = {}, 0, ARGV[1], 0
local most, enough = tonumber(ARGV[2]), tonumber(ARGV[3])
-- A few at a time: a thousand events may be small, or all that Redis holds.
while whole == 0 and #rows < most and bytes < enough do
  local count = math.min(8, most - #rows)
  local part = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', count)
  for _, row in ipairs(part) do
    rows[#rows + 1] = row
    from = row[1]
    for _, value in ipairs(row[2]) do bytes = bytes + #value end
  end
  if #part < count then whole = 1 end
end
return {m[1], m[2] or '0-0', m[3] or '0-0', rows, whole}
