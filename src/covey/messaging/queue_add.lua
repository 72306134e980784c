-- Add a job, unless it is there already or as many are as may be.
--
-- KEYS: ready, later, jobs. ARGV: how many there may be, the milliseconds until it is due (0: now), its id, and the job.
-- Returns 1 when it was added, 0 when its id is there already (waiting, being done, or dead), -1 when there is no room.

local ready, later, jobs = unpack(KEYS)
local most, delay, id, job = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]

if redis.call('HEXISTS', jobs, id) == 1 then
  return 0
end
if redis.call('HLEN', jobs) >= most then
  return -1
end
redis.call('HSET', jobs, id, job)
if delay > 0 then
  local clock = redis.call('TIME')
  redis.call('ZADD', later, clock[1] * 1000 + math.floor(clock[2] / 1000) + delay, id)
else
  redis.call('XADD', ready, '*', 'id', id)
end
return 1
