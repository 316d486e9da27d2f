-- id, record, priority, model, client, weight, cost, reply, custom_id or '', unstarted_ttl_ms
-- -> how many of its priority and model wait with it, or 0: it was known already

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
