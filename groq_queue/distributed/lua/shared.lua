-- The scripts by which a request changes its state in Redis: each is one step that nobody sees half done. This file
-- stands at the head of each of them.
--
--     queued -> held (by a worker) -> sending -> completed | failed | expired
--        |         |        ^            |
--        |         |        +--- rest ---+     it waits for a retry
--        +---------+---> cancelled | expired
--
-- Whoever *holds* a request has it until its lease ends, which each heart-beat extends. Bytes leave only after
-- ``begin``, which fails for everybody but the holder: so a request that was cancelled, or that another worker took
-- over meanwhile, is not sent. ``finish`` is taken from whoever comes first, since an answer was paid for.
--
-- Time is the server's. Each script may be repeated after a lost reply. Keys are made inside: they stand in one
-- database of one server (or one that takes its place), not on a Redis Cluster, which kombu does not know either.
--
--     gqc:job:<id>                  hash: all of one request
--     gqc:ready:<priority>:<model>  sorted set: ids of those that wait, by the turn of their client
--     gqc:models:<priority>         set: models with such
--     gqc:turns:<priority>          hash: <client> -> where its next turn begins; "" -> the present turn
--     gqc:leases                    sorted set: ids of those that are held, by the end of their lease
--     gqc:workers                   sorted set: workers, by the end of theirs
--     gqc:reply:<submitter>         list: what a submitting process is to be told
--
-- Source of the turns: start-time fair queuing, P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996.

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
