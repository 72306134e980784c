-- Tell a process from which epoch on it may believe what it finds.
--
-- KEYS[1]: the epoch, 16 digits, and behind them the life of the server in which it began.
-- ARGV: the present life of the server; '1' when the process may have missed something.
-- A new epoch begins when something may have been missed: by the process, or by a server that has lost what it had
-- acknowledged. Every epoch is greater than all before it, also where the last one was lost (microseconds of the clock).

local kept = redis.call('GET', KEYS[1]) or ''
local epoch, life = string.sub(kept, 1, 16), string.sub(kept, 17)
if life == ARGV[1] and ARGV[2] ~= '1' then
  return epoch
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
epoch = string.format('%016.0f', math.max(now, (tonumber(epoch) or 0) + 1))
redis.call('SET', KEYS[1], epoch .. ARGV[1])
return epoch
