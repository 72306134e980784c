-- Put something in the place of a lease, unless that was taken away: then it may be older than what was written since.
--
-- KEYS[1]: where the value is. ARGV: the lease, the entry ('' removes the lease), and its milliseconds.
-- Returns whether the lease was still there.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
