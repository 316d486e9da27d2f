-- owner, lease_ms, first, last, model not to be taken...
-- -> {id, record, attempts, unknown, age_ms, priority, weight, counts or '', rest_ms} or nil: nothing waits

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
