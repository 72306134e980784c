-- Forget a job that is done, whoever may have it by now.
--
-- KEYS: ready, later, jobs, attempts, errors, dead. ARGV: its entry, its id, and the SHA-1 of what it is: when its entry
-- is gone, another has done it or given it up, and what is dead under its id may be a new one. '' for whichever it is.

local ready, later, jobs, attempts, errors, dead = unpack(KEYS)
local entry, id, digest = unpack(ARGV)
redis.call('XACK', ready, 'workers', entry)
if redis.call('XDEL', ready, entry) == 0 then
  local job = redis.call('HGET', jobs, id)
  if not job or (digest ~= '' and redis.sha1hex(job) ~= digest) or redis.call('ZREM', dead, id) == 0 then
    return 0
  end
end
for _, key in ipairs({jobs, attempts, errors}) do
  redis.call('HDEL', key, id)
end
redis.call('ZREM', later, id)
redis.call('ZREM', dead, id)
return 1
