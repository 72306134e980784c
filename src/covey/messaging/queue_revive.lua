-- Let a dead job be done again, its attempts forgotten.
--
-- KEYS: ready, later, jobs, attempts, errors, dead. ARGV: its id.
-- Returns 0 when it is not dead.

local ready, _, _, attempts, errors, dead = unpack(KEYS)
if redis.call('ZREM', dead, ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', attempts, ARGV[1])
redis.call('HDEL', errors, ARGV[1])
redis.call('XADD', ready, '*', 'id', ARGV[1])
return 1
