-- Forget a job that is done, whoever may have it by now.
--
-- KEYS: ready, later, jobs, attempts, errors, dead. ARGV: its entry and its id.

local ready, later, jobs, attempts, errors, dead = unpack(KEYS)
redis.call('XACK', ready, 'workers', ARGV[1])
if redis.call('XDEL', ready, ARGV[1]) == 0 and redis.call('ZREM', dead, ARGV[2]) == 0 then
  return 0 -- another has done it or given it up, and under its id may be a new one
end
for _, key in ipairs({jobs, attempts, errors}) do
  redis.call('HDEL', key, ARGV[2])
end
redis.call('ZREM', later, ARGV[2])
redis.call('ZREM', dead, ARGV[2])
return 1
