"""The Lua scripts by which a request changes its state in Redis: each is one step that nobody sees half done.

    queued -> held (by a worker) -> sending -> completed | failed | expired
       |         |        ^            |
       |         |        +--- rest ---+     it waits for a retry
       +---------+---> cancelled | expired

Whoever *holds* a request has it until its lease ends, which each heart-beat extends. Bytes leave only after
``begin``, which fails for everybody but the holder: so a request that was cancelled, or that another worker took
over meanwhile, is not sent. ``finish`` is taken from whoever comes first, since an answer was paid for.

Time is the server's. Each script may be repeated after a lost reply. Keys are made inside: they stand in one
database of one server (or one that takes its place), not on a Redis Cluster, which kombu does not know either.

    gqc:job:<id>                  hash: all of one request
    gqc:ready:<priority>:<model>  sorted set: ids of those that wait, by the turn of their client
    gqc:models:<priority>         set: models with such
    gqc:turns:<priority>          hash: <client> -> where its next turn begins; "" -> the present turn
    gqc:leases                    sorted set: ids of those that are held, by the end of their lease
    gqc:workers                   sorted set: workers, by the end of theirs
    gqc:reply:<submitter>         list: what a submitting process is to be told

Source of the turns: start-time fair queuing, P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996.
"""

from __future__ import annotations

_SHARED = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function job_of(id) return 'gqc:job:' .. id end
local function is_open(status) return status == 'queued' or status == 'held' or status == 'sending' end
local function tell(job, event, ttl_ms)
  local to = redis.call('HMGET', job, 'reply', 'also')
  for _, name in ipairs(to) do
    if name and name ~= '' then
      redis.call('RPUSH', 'gqc:reply:' .. name, event)
      redis.call('PEXPIRE', 'gqc:reply:' .. name, ttl_ms)
    end
  end
end
local function line_up(id)
  local f = redis.call('HMGET', job_of(id), 'priority', 'model', 'turn')
  redis.call('ZADD', 'gqc:ready:' .. f[1] .. ':' .. f[2], f[3], id)
  redis.call('SADD', 'gqc:models:' .. f[1], f[2])
end
local function leave_line(id)
  local f = redis.call('HMGET', job_of(id), 'priority', 'model')
  redis.call('ZREM', 'gqc:ready:' .. f[1] .. ':' .. f[2], id)
end
local function take_turn(id, priority, client, cost, weight)
  local turns = 'gqc:turns:' .. priority
  local present = tonumber(redis.call('HGET', turns, '') or '0')
  local turn = math.max(present, tonumber(redis.call('HGET', turns, 'c' .. client) or '0'))
  redis.call('HSET', turns, 'c' .. client, string.format('%.6f', turn + cost / weight))
  redis.call('HSET', job_of(id), 'turn', string.format('%.6f', turn))
end
local function finish(id, status, ending, ttl_ms)
  local job = job_of(id)
  redis.call('HSET', job, 'status', status, 'ending', ending)
  redis.call('HDEL', job, 'record', 'owner')
  redis.call('ZREM', 'gqc:leases', id)
  leave_line(id)
  redis.call('PEXPIRE', job, ttl_ms)
  tell(job, cjson.encode({'ended', id}), ttl_ms)
end
"""

# id, record, priority, model, client, weight, cost, reply, custom_id or '', unstarted_ttl_ms
# -> how many of its priority and model wait with it, or 0: it was known already
ENQUEUE = """
local id, record, priority, model, client, weight, cost, reply, custom_id, ttl_ms = unpack(ARGV)
local job = job_of(id)
if redis.call('EXISTS', job) == 1 then return 0 end
redis.call('HSET', job, 'status', 'queued', 'record', record, 'priority', priority, 'model', model, 'client', client,
  'weight', weight, 'cost', cost, 'reply', reply, 'custom_id', custom_id, 'attempts', 0, 'unknown', 0,
  'created_ms', string.format('%.0f', now_ms()))
redis.call('PEXPIRE', job, ttl_ms)
take_turn(id, priority, client, tonumber(cost), tonumber(weight))
line_up(id)
return redis.call('ZCARD', 'gqc:ready:' .. priority .. ':' .. model)
"""

# owner, lease_ms, first, last, model not to be taken...
# -> {id, record, attempts, unknown, age_ms, priority, weight, counts or '', rest_ms} or nil: nothing waits
CLAIM = """
local owner, lease_ms, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local is_out = {}
for i = 5, #ARGV do is_out[ARGV[i]] = true end
local function head_of(ready)
  while true do
    local head = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
    if not head[1] or redis.call('HGET', job_of(head[1]), 'status') == 'queued' then return head end
    redis.call('ZREM', ready, head[1])
  end
end
local function next_of(priority)
  local best, turn
  for _, model in ipairs(redis.call('SMEMBERS', 'gqc:models:' .. priority)) do
    local head = head_of('gqc:ready:' .. priority .. ':' .. model)
    if not head[1] then
      redis.call('SREM', 'gqc:models:' .. priority, model)
    elseif not is_out[model] and (not turn or tonumber(head[2]) < turn) then
      best, turn = head[1], tonumber(head[2])
    end
  end
  if redis.call('EXISTS', 'gqc:models:' .. priority) == 0 then redis.call('DEL', 'gqc:turns:' .. priority) end
  return best, turn
end
for priority = first, last do
  local id, turn = next_of(priority)
  if id then
    local job, now = job_of(id), now_ms()
    leave_line(id)
    redis.call('HSET', 'gqc:turns:' .. priority, '', string.format('%.6f', turn))
    redis.call('HSET', job, 'status', 'held', 'owner', owner)
    redis.call('ZADD', 'gqc:leases', now + lease_ms, id)
    local f = redis.call('HMGET', job, 'record', 'attempts', 'unknown', 'created_ms', 'priority', 'weight', 'counts',
      'due_ms')
    local rest_ms = math.max(0, tonumber(f[8] or '0') - now)
    return {id, f[1], tonumber(f[2]), tonumber(f[3]), now - tonumber(f[4]), tonumber(f[5]), f[6], f[7] or '', rest_ms}
  end
end
return nil
"""

# id, owner, lease_ms, reply_ttl_ms -> how many attempts that makes, or 0: it is not the owner's any more
BEGIN = """
local id, owner, lease_ms, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'owner', 'attempts')
if f[2] ~= owner then return 0 end
if f[1] == 'sending' then return tonumber(f[3]) end
if f[1] ~= 'held' then return 0 end
redis.call('HSET', job, 'status', 'sending')
redis.call('ZADD', 'gqc:leases', now_ms() + lease_ms, id)
local attempts = redis.call('HINCRBY', job, 'attempts', 1)
tell(job, cjson.encode({'began', id, attempts}), ttl_ms)
return attempts
"""

# id, owner, unknown, error as JSON or '', counts as JSON or '', rest_ms, reply_ttl_ms
# -> 1, or 0: it is not the owner's any more
REST = """
local id, owner, unknown, error, counts, rest_ms, ttl_ms = unpack(ARGV)
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'owner')
if f[2] ~= owner then return 0 end
if f[1] ~= 'sending' then return 1 end
redis.call('HSET', job, 'status', 'held', 'unknown', unknown, 'counts', counts,
  'due_ms', string.format('%.0f', now_ms() + rest_ms))
tell(job, cjson.encode({'rests', id, error}), ttl_ms)
return 1
"""

# id, status, ending, ttl_ms -> 1, 0: it has ended already, or -1: nobody knows it
FINISH = """
local id, status, ending, ttl_ms = unpack(ARGV)
local was = redis.call('HGET', job_of(id), 'status')
if not was then return -1 end
if not is_open(was) then return 0 end
finish(id, status, ending, ttl_ms)
return 1
"""

# id, owner -> 1, or 0: it is not the owner's any more
RELEASE = """
local id, owner = ARGV[1], ARGV[2]
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'owner')
if f[2] ~= owner or f[1] ~= 'held' then return 0 end
redis.call('HSET', job, 'status', 'queued')
redis.call('HDEL', job, 'owner')
redis.call('ZREM', 'gqc:leases', id)
line_up(id)
return 1
"""

# id, status, ending, ttl_ms -> 1: it has that status now, 0: it is on its way or has ended, or -1: nobody knows it
WITHDRAW = """
local id, status, ending, ttl_ms = unpack(ARGV)
local was = redis.call('HGET', job_of(id), 'status')
if not was then return -1 end
if was == status then return 1 end
if was ~= 'queued' and was ~= 'held' then return 0 end
finish(id, status, ending, ttl_ms)
return 1
"""

# id, priority -> 1, or 0: it stands in line no more
MOVE = """
local id, priority = ARGV[1], ARGV[2]
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'client', 'cost', 'weight')
if f[1] ~= 'queued' then return 0 end
leave_line(id)
redis.call('HSET', job, 'priority', priority)
take_turn(id, priority, f[2], tonumber(f[3]), tonumber(f[4]))
line_up(id)
return 1
"""

# owner, lease_ms, id... -> ids that are not the owner's any more
BEAT = """
local owner, lease_ms, now = ARGV[1], tonumber(ARGV[2]), now_ms()
redis.call('ZADD', 'gqc:workers', now + lease_ms, owner)
redis.call('ZREMRANGEBYSCORE', 'gqc:workers', '-inf', '(' .. now)
local lost = {}
for i = 3, #ARGV do
  local f = redis.call('HMGET', job_of(ARGV[i]), 'status', 'owner')
  if f[2] == owner and (f[1] == 'held' or f[1] == 'sending') then
    redis.call('ZADD', 'gqc:leases', now + lease_ms, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

# period_ms, most times that may be unknown, ending of those beyond, ttl_ms, may_expire
# -> {requests that were taken back, those that wait at priority 0, ... 10}, or nil: somebody has swept in this period
SWEEP = """
local period_ms, most, ending, ttl_ms, may_expire = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
if not redis.call('SET', 'gqc:swept', '1', 'NX', 'PX', period_ms) then return nil end
local taken_back = 0
local over = {}
if may_expire == '1' then over = redis.call('ZRANGEBYSCORE', 'gqc:leases', '-inf', now_ms(), 'LIMIT', 0, 200) end
for _, id in ipairs(over) do
  local job = job_of(id)
  local status = redis.call('HGET', job, 'status')
  redis.call('ZREM', 'gqc:leases', id)
  local unknown = 0
  if status == 'sending' then unknown = redis.call('HINCRBY', job, 'unknown', 1) end
  if unknown >= most then
    finish(id, 'failed', ending, ttl_ms)
  elseif status == 'held' or status == 'sending' then
    redis.call('HSET', job, 'status', 'queued')
    redis.call('HDEL', job, 'owner')
    line_up(id)
    if status == 'sending' then tell(job, cjson.encode({'rests', id, ''}), ttl_ms) end
    taken_back = taken_back + 1
  end
end
local counts = {taken_back}
for priority = 0, 10 do
  local waiting = 0
  for _, model in ipairs(redis.call('SMEMBERS', 'gqc:models:' .. priority)) do
    waiting = waiting + redis.call('ZCARD', 'gqc:ready:' .. priority .. ':' .. model)
  end
  counts[#counts + 1] = waiting
end
return counts
"""

# id, reply -> {status, ending, custom_id} or nil: nobody knows it
ATTACH = """
local job = job_of(ARGV[1])
local f = redis.call('HMGET', job, 'status', 'ending', 'custom_id')
if not f[1] then return nil end
if is_open(f[1]) then redis.call('HSET', job, 'also', ARGV[2]) end
return f
"""


def script(text: str) -> str:
    """Return a script with what all of them share."""
    return _SHARED + text
