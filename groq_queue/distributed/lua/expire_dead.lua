-- period_ms, most times that may be unknown, ending of those beyond, ttl_ms, may_expire
-- -> {requests that were taken back, those that wait at priority 0, ... 10}, or nil: somebody has swept in this period

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
