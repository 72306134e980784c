-- Append messages to a stream, each with the next sequence; those whose ids it knows are there already.
--
-- KEYS: log, meta, ids, ids before. ARGV: the life of the server for which the caller has settled the stream, how many
-- ids are known at least, and for each message its id, kind, headers and body.
-- Returns the incarnation and the last sequence that was given, 0 for none.

local log, meta, ids, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local incarnation, life = unpack(redis.call('HMGET', meta, 'incarnation', 'life'))
if life ~= ARGV[1] or redis.call('EXISTS', log) == 0 then
  return redis.error_reply('UNSETTLED ' .. log)
end

local last = '0-0'
for n = 3, #ARGV, 4 do
  local id, kind, headers, body = unpack(ARGV, n, n + 3)
  if redis.call('SISMEMBER', ids, id) == 0 and redis.call('SISMEMBER', before, id) == 0 then
    last = redis.call('XADD', log, '0-*', 'kind', kind, 'headers', headers, 'body', body)
    redis.call('SADD', ids, id) -- after it is stored: a known id that is not in the stream would be a lost message
  end
end
if redis.call('SCARD', ids) >= tonumber(ARGV[2]) then
  redis.call('RENAME', ids, before)
end
return {incarnation, string.sub(last, 3)}
