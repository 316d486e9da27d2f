-- id, owner, lease_ms, reply_ttl_ms -> how many attempts that makes, or 0: it is not the owner's any more

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
