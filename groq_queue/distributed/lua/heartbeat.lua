-- owner, lease_ms, id... -> ids that are not the owner's any more

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
