-- Give up a job that a worker has: for later, for good, or back for another worker.
--
-- KEYS: ready, later, jobs, attempts, errors, dead. ARGV: the worker, the entry, the id, 'later', 'dead' or 'back', the
-- milliseconds until later, and why.
-- Returns 0 and changes nothing when the worker does not have it any more: another does it, or has done it.

local ready, later, jobs, attempts, errors, dead = unpack(KEYS)
local worker, entry, id, way, delay, reason = unpack(ARGV)
local pending = redis.call('XPENDING', ready, 'workers', entry, entry, 1)
if #pending == 0 or pending[1][2] ~= worker then
  return 0
end
redis.call('XACK', ready, 'workers', entry)
redis.call('XDEL', ready, entry)
if redis.call('HEXISTS', jobs, id) == 0 then
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if way == 'back' then
  redis.call('HINCRBY', attempts, id, -1)
  redis.call('XADD', ready, '*', 'id', id)
else
  redis.call('HSET', errors, id, reason)
  redis.call('ZADD', way == 'dead' and dead or later, way == 'dead' and now or now + tonumber(delay), id)
end
return 1
