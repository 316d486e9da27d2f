-- id, reply -> {status, ending, custom_id} or nil: nobody knows it

local job = job_of(ARGV[1])
local f = redis.call('HMGET', job, 'status', 'ending', 'custom_id')
if not f[1] then return nil end
if is_open(f[1]) then redis.call('HSET', job, 'also', ARGV[2]) end
return f
