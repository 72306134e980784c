-- Remove a lease that its taker does not need any more, unless something else is there.
--
-- KEYS[1]: where the value is. ARGV[1]: the token of the lease.

if string.sub(redis.call('GET', KEYS[1]) or '', 25) == '~' .. ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
