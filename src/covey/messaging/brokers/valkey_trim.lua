-- Drop what is too old: all that has reached the greatest age, and what every known reader has read at a lower one.
--
-- KEYS: log, meta, marks, readers, ids, ids before. ARGV: the life of the server for which the caller has settled the
-- stream, then in milliseconds the greatest age, the age for what was read, how far apart marks are, and how long an id
-- is known at least: twice as long at most, and so never when its message is gone, which would then be lost if somebody
-- published it again.
-- Returns the first sequence that stays, 0 when nothing was to go.
--
-- A mark says that all up to a sequence was there at an instant of the server's clock, so nothing goes too early. Gaps
-- before what has reached the greatest age are forgotten, or there would be one more for each start of the server.

local log, meta, marks, readers, ids, before = unpack(KEYS)
if redis.call('HGET', meta, 'life') ~= ARGV[1] or redis.call('EXISTS', log) == 0 then
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

redis.call('ZREMRANGEBYSCORE', marks, string.format('(%.0f', now), '+inf') -- the clock was ahead
local turned = tonumber(redis.call('HGET', meta, 'turned') or 0)
if now < turned or now - turned >= tonumber(ARGV[5]) then
  redis.call('DEL', before)
  if redis.call('EXISTS', ids) == 1 then
    redis.call('RENAME', ids, before)
  end
  redis.call('HSET', meta, 'turned', string.format('%.0f', now))
end

local function there_before(age)
  local found = redis.call('ZREVRANGEBYSCORE', marks, now - age, '-inf', 'LIMIT', 0, 1)
  return tonumber(found[1] or 0)
end

local newest = redis.call('ZREVRANGE', marks, 0, 0, 'WITHSCORES')
if #newest == 0 or now - tonumber(newest[2]) >= tonumber(ARGV[4]) then
  local info = redis.call('XINFO', 'STREAM', log)
  for n = 1, #info, 2 do
    if info[n] == 'last-generated-id' then
      redis.call('ZADD', marks, 'NX', now, string.sub(info[n + 1], 3)) -- else an idle stream would never grow older
    end
  end
end

local aged = there_before(tonumber(ARGV[2]))
local gaps, kept = redis.call('HGET', meta, 'gaps') or '', {}
for gap, upto in string.gmatch(gaps, '(%d+%-(%d+))') do
  if tonumber(upto) >= aged then -- else who is in it has missed what came behind it, too, and is told by that
    kept[#kept + 1] = gap
  end
end
if table.concat(kept, ' ') ~= gaps then
  redis.call('HSET', meta, 'gaps', table.concat(kept, ' '))
end

local cut = aged
local read = math.huge
for _, position in ipairs(redis.call('HVALS', readers)) do
  read = math.min(read, tonumber(position))
end
if read < math.huge then
  cut = math.max(cut, math.min(read, there_before(tonumber(ARGV[3]))))
end
if cut == 0 then
  return 0
end
local stays = string.format('%.0f', cut + 1)
redis.call('XTRIM', log, 'MINID', '0-' .. stays)
redis.call('ZREMRANGEBYSCORE', marks, '-inf', now - tonumber(ARGV[2]))
return stays
