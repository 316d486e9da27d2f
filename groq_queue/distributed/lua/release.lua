-- id, owner -> 1, or 0: it is not the owner's any more

local id, owner = ARGV[1], ARGV[2]
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'owner')
if f[2] ~= owner or f[1] ~= 'held' then return 0 end
redis.call('HSET', job, 'status', 'queued')
redis.call('HDEL', job, 'owner')
redis.call('ZREM', 'gqc:leases', id)
line_up(id)
return 1
