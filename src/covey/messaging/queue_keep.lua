-- Say that a worker still does these jobs; those that others have by now stay theirs.
--
-- KEYS: ready. ARGV: the worker, and the entries.

for n = 2, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], 'workers', ARGV[n], ARGV[n], 1)
  if #pending > 0 and pending[1][2] == ARGV[1] then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[n], 'JUSTID')
  end
end
return 1
