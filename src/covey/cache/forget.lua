-- Remove a value, and the lease of who may be loading an older one; a mark of who is about to change it stays.

if string.sub(redis.call('GET', KEYS[1]) or '', 25, 25) ~= '!' then
  redis.call('DEL', KEYS[1])
end
return 1
