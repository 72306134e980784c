-- Find a value, or be the one who loads it.
--
-- KEYS: where the value is, and the epoch. ARGV: the epoch of the process, the shape of what it reads, a token, and the
-- milliseconds that it has to load.
-- Returns what is there, if that can be believed or somebody loads or changes it; else the lease, which is there now;
-- nothing when the epoch was lost.

local epoch = string.sub(redis.call('GET', KEYS[2]) or '', 1, 16)
if epoch < ARGV[1] then
  return false
end
local found = redis.call('GET', KEYS[1]) or ''
local kind = string.sub(found, 25, 25)
if kind == '!' then
  return found
end
if kind ~= '' and string.sub(found, 9, 24) >= ARGV[1] and (kind == '~' or string.sub(found, 1, 8) == ARGV[2]) then
  return found
end
local lease = ARGV[2] .. epoch .. '~' .. ARGV[3]
redis.call('SET', KEYS[1], lease, 'PX', ARGV[4])
return lease
