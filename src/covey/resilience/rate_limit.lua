-- The generic cell rate algorithm, for all who ask at once: each takes from all of its limits, or from none.
--
-- KEYS: where each limit keeps its theoretical arrival time, in microseconds of the server's clock; those of the first
-- who asks, then those of the second, and so on. One key may stand for several who ask.
-- ARGV: the cost, then for each limit: the microseconds in which one unit comes back, and how many there are at most.
-- Returns for each key the microseconds t until all its units are back: t where they were taken, -1 - t where not.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[1])
local each = (#ARGV - 1) / 2
local takes, latest = {}, {}
for n = 1, each do
  local interval = tonumber(ARGV[2 * n])
  takes[n] = cost * interval
  latest[n] = now + interval * ARGV[2 * n + 1]
end

local kept = redis.call('MGET', unpack(KEYS)) -- all is read before anything is written: an error has no effect
local arrivals, taken, found = {}, {}, {}

for first = 0, #KEYS - 1, each do
  local admitted = true
  for n = 1, each do
    local key = KEYS[first + n]
    local arrival = arrivals[key]
    if not arrival then
      arrival = tonumber(kept[first + n] or now)
      arrival = math.max(now, math.min(arrival, latest[n])) -- later only if the clock was set back
      arrivals[key] = arrival
    end
    admitted = admitted and arrival + takes[n] <= latest[n]
  end
  for n = 1, each do
    local key = KEYS[first + n]
    if admitted then
      local arrival = arrivals[key] + takes[n]
      arrivals[key] = arrival
      taken[key] = arrival
      found[first + n] = arrival - now
    else
      found[first + n] = now - arrivals[key] - 1
    end
  end
end

for key, arrival in pairs(taken) do
  if arrival > now then
    redis.call('SET', key, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
  end
end
return found
