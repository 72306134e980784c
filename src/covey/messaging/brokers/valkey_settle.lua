-- Find a stream, make it if asked to, and settle what a new life of the server means for it.
--
-- KEYS: log, meta, ids, ids before, marks, readers. ARGV: the life of the server, how it syncs now, an incarnation to
-- give, '1' to make the stream, and what the caller has seen confirmed: the incarnation, and the last sequence there.
-- Returns nothing when there is no stream; else its incarnation, last and first sequence, their number, and its gaps,
-- 'after-upto' each: no sequence in (after, upto] was ever given, or what had it is lost.
--
-- A server that starts again, or from a backup, may have lost what it had handed out. So sequences go on behind all that
-- may ever have been, by the clock: none means two messages, below two million messages a second. And where what was
-- confirmed may be among what is lost, this is another stream: with a server that does not sync before it confirms, or
-- was a replica, or where the caller has seen something confirmed that is in a gap.

local log, meta, ids, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local life, sync, fresh, make, incarnation_seen, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local TICK, ROOM = 62500, 131072 -- microseconds, and sequences for each: exact as a number of Lua until the year 2106

if redis.call('EXISTS', log) == 0 then
  if make ~= '1' then
    return false
  end
  redis.call('DEL', unpack(KEYS))
  redis.call('XGROUP', 'CREATE', log, 'none', '$', 'MKSTREAM') -- the way to make an empty one
  redis.call('XGROUP', 'DESTROY', log, 'none')
  redis.call('HSET', meta, 'incarnation', fresh, 'life', life, 'sync', sync)
end

local info = redis.call('XINFO', 'STREAM', log)
local of = {}
for n = 1, #info, 2 do
  of[info[n]] = info[n + 1]
end
local last = tonumber(string.match(of['last-generated-id'], '^0%-(%d+)$'))
local first = tonumber(string.match(of['recorded-first-entry-id'], '^0%-(%d+)$'))
if not last or not first then
  return redis.error_reply('FOREIGN somebody else has written into ' .. log)
end

local incarnation, lived, synced, gaps = unpack(redis.call('HMGET', meta, 'incarnation', 'life', 'sync', 'gaps'))
gaps = gaps or ''
if lived ~= life then
  if synced ~= 'always' or sync == 'promoted' then
    incarnation = fresh
    redis.call('DEL', ids, before)
  end
  local clock = redis.call('TIME')
  local upto = math.max(math.floor((clock[1] * 1000000 + clock[2]) / TICK) * ROOM, last + ROOM)
  local head, after, behind = string.match(gaps, '^(.-) ?(%d+)%-(%d+)$')
  if tonumber(behind) == last then -- nothing is held behind that gap, but something may have been: it grows
    gaps = string.format('%s %s-%.0f', head, after, upto)
  else
    gaps = string.format('%s %.0f-%.0f', gaps, last, upto)
  end
  last = upto
  redis.call('XSETID', log, string.format('0-%.0f', upto))
  redis.call('HSET', meta, 'incarnation', incarnation, 'life', life, 'sync', sync, 'gaps', gaps)
elseif synced == 'always' and sync ~= 'always' then
  redis.call('HSET', meta, 'sync', sync)
end
for after, upto in string.gmatch(gaps, '(%d+)%-(%d+)') do
  if incarnation == incarnation_seen and tonumber(after) < seen and seen <= tonumber(upto) then
    incarnation = fresh
    redis.call('DEL', ids, before)
    redis.call('HSET', meta, 'incarnation', incarnation)
  end
end
return {incarnation, string.format('%.0f', last), string.format('%.0f', first), of['length'], gaps}
