-- id, owner, unknown, error as JSON or '', counts as JSON or '', rest_ms, reply_ttl_ms
-- -> 1, or 0: it is not the owner's any more

local id, owner, unknown, error, counts, rest_ms, ttl_ms = unpack(ARGV)
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'owner')
if f[2] ~= owner then return 0 end
if f[1] ~= 'sending' then return 1 end
redis.call('HSET', job, 'status', 'held', 'unknown', unknown, 'counts', counts,
  'due_ms', string.format('%.0f', now_ms() + rest_ms))
tell(job, cjson.encode({'rests', id, error}), ttl_ms)
return 1
