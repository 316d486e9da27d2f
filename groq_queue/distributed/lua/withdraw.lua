-- id, status, ending, ttl_ms -> 1: it has that status now, 0: it is on its way or has ended, or -1: nobody knows it

local id, status, ending, ttl_ms = unpack(ARGV)
local was = redis.call('HGET', job_of(id), 'status')
if not was then return -1 end
if was == status then return 1 end
if was ~= 'queued' and was ~= 'held' then return 0 end
finish(id, status, ending, ttl_ms)
return 1
