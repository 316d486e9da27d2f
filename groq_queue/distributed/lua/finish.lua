-- id, status, ending, ttl_ms -> 1, 0: it has ended already, or -1: nobody knows it

local id, status, ending, ttl_ms = unpack(ARGV)
local was = redis.call('HGET', job_of(id), 'status')
if not was then return -1 end
if not is_open(was) then return 0 end
finish(id, status, ending, ttl_ms)
return 1
