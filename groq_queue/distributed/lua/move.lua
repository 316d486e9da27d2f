-- id, priority -> 1, or 0: it stands in line no more

local id, priority = ARGV[1], ARGV[2]
local job = job_of(id)
local f = redis.call('HMGET', job, 'status', 'client', 'cost', 'weight')
if f[1] ~= 'queued' then return 0 end
leave_line(id)
redis.call('HSET', job, 'priority', priority)
take_turn(id, priority, f[2], tonumber(f[3]), tonumber(f[4]))
line_up(id)
return 1
