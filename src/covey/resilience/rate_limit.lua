-- The generic cell rate algorithm over several limits at once: taken from all of them, or from none.
--
-- KEYS: where each limit keeps its theoretical arrival time, in microseconds of the server's clock.
-- ARGV: the cost, then for each limit: the microseconds in which one unit comes back, and how many there are at most.
-- Returns for each limit: the microseconds to wait until the cost could be had (0: it can), the units left,
-- and the microseconds until all are back.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[1])
local arrivals, waits, refused = {}, {}, false

for n, key in ipairs(KEYS) do
  local interval, most = tonumber(ARGV[2 * n]), tonumber(ARGV[2 * n + 1])
  local kept = tonumber(redis.call('GET', key) or 0)
  local arrival = math.max(now, math.min(kept, now + most * interval)) -- later only if the clock was set back
  local wait = arrival + cost * interval - most * interval - now
  arrivals[n] = arrival
  waits[n] = math.max(0, wait)
  refused = refused or wait > 0
end

local found = {}
for n, key in ipairs(KEYS) do
  local interval, most = tonumber(ARGV[2 * n]), tonumber(ARGV[2 * n + 1])
  local arrival = arrivals[n]
  if not refused then
    arrival = arrival + cost * interval
    if arrival > now then
      redis.call('SET', key, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
    end
  end
  found[3 * n - 2] = waits[n]
  found[3 * n - 1] = math.floor((most * interval - (arrival - now)) / interval)
  found[3 * n] = arrival - now
end
return found
