-- digests.lua - the digests of what lies in the log above an id, a page at a time.
--
-- KEYS: log
-- ARGV: from (exclusive), most entries, most bytes
--
-- Answers {last id read, digest, digest, ..}; {from} alone when there is nothing more. The frames are read to get
-- at the digests, so a page is bounded in bytes too; it holds one entry at least.
local from, entries, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer, read, size, step = {from}, 0, 0, 4

while read < entries and size < bytes do
    local rows = redis.call('XRANGE', KEYS[1], '(' .. answer[1], '+', 'COUNT', step)
    for _, row in ipairs(rows) do
        local fields, digest = row[2], ''
        for i = 1, #fields, 2 do
            size = size + #fields[i + 1]
            if fields[i] == 'h' then
                digest = fields[i + 1]
            end
        end
        answer[#answer + 1] = digest
    end
    if #rows > 0 then
        answer[1] = rows[#rows][1]
        read = read + #rows
    end
    if #rows < step then
        break
    end
    step = math.max(1, math.min(200, entries - read, math.floor((bytes - size) * read / (size + 1))))
end
return answer
