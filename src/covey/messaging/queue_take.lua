-- Take jobs to do: what has become due, what a worker has left that says nothing any more, what is new.
--
-- KEYS: ready, later, jobs, attempts, errors, dead. ARGV: the worker, how many it has room for, the milliseconds after
-- which a silent worker has lost its jobs, how many attempts a job has, and '1' when the worker does nothing else.
-- Returns for each job its entry, id, attempt and text; then the last entry that there is, the milliseconds until the
-- next job is due, -1 for none, and '1' when a job is to be done alone: by this worker, when it has nothing else to do.
--
-- An attempt is counted here, before it is made: so a job that kills its workers is dead after as many as any other.
-- Those that were done beside it would be, too: so what has been left by two workers is done alone.

local ready, later, jobs, attempts, errors, dead = unpack(KEYS)
local worker, room, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local idle, alone, doing = #ARGV == 4, 0, {}
for n = 5, #ARGV do
  doing[ARGV[n]] = true
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

redis.pcall('XGROUP', 'CREATE', ready, 'workers', '0', 'MKSTREAM') -- there is one, as a rule

for _, id in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', later, id)
  redis.call('XADD', ready, '*', 'id', id)
end

local function suspect(place)
  local entry = redis.call('XRANGE', ready, place, place)[1]
  return entry and tonumber(redis.call('HGET', attempts, entry[2][2]) or 0) >= 2
end

local entries = {}
for _, pending in ipairs(redis.call('XPENDING', ready, 'workers', 'IDLE', lease, '-', '+', room + 100)) do
  if #entries < room and alone == 0 and not doing[pending[1]] then -- its own it may have taken without being told
    alone = suspect(pending[1]) and 1 or 0
    if alone == 0 or (idle and #entries == 0) then
      for _, entry in ipairs(redis.call('XCLAIM', ready, 'workers', worker, lease, pending[1])) do
        entries[#entries + 1] = entry
      end
    end
  end
end
if #entries < room and alone == 0 then
  local more = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', room - #entries, 'STREAMS', ready, '>')
  for _, entry in ipairs(more and more[1][2] or {}) do
    entries[#entries + 1] = entry
  end
end

local taken, buried = {}, {}
for _, entry in ipairs(entries) do
  local id = entry[2][2]
  local job = redis.call('HGET', jobs, id)
  local attempt = job and redis.call('HINCRBY', attempts, id, 1) or 0
  if job and attempt <= most then
    taken[#taken + 1] = {entry[1], id, attempt, job}
  else
    redis.call('XACK', ready, 'workers', entry[1])
    redis.call('XDEL', ready, entry[1])
    if job then
      redis.call('HSETNX', errors, id, 'its workers have died, or lost it')
      redis.call('ZADD', dead, now, id)
      buried[#buried + 1] = id
    end
  end
end

for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', ready, 'workers')) do
  if other[4] == 0 and other[6] > 3600000 then -- pending, and milliseconds idle: deleting another would lose its jobs
    redis.call('XGROUP', 'DELCONSUMER', ready, 'workers', other[2])
  end
end

local info, last = redis.call('XINFO', 'STREAM', ready), '0-0'
for n = 1, #info, 2 do
  if info[n] == 'last-generated-id' then
    last = info[n + 1]
  end
end
local due = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
return {taken, last, #due > 0 and math.max(0, tonumber(due[2]) - now) or -1, alone, buried}
