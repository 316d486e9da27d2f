-- Who waits, who holds, who lives: the claims of one lane, and how a step ends.

local function leave_line(id, record)
    local rank, tag, finish, client = string.match(record, '^(%S+) %S+ (%d+) (%d+) (%S+)|')
    call('ZREM', LINE, rank)
    call('HDEL', WAITERS, id)
    is_freed = true
    return string.sub(rank, 1, 2) .. ':' .. client, tag, finish
end

-- Whoever leaves the line unserved gives its turn back, if nobody of its client has queued behind it.
local function give_up(id)
    local record = call('HGET', WAITERS, id)
    if record then
        local turn, tag, finish = leave_line(id, record)
        if call('HGET', TURNS, turn) == finish then
            call('HSET', TURNS, turn, tag)
            keep(TURNS)
        end
    end
end

local function end_lease(id, costs)
    call('HDEL', LEASES, id)
    add_held(costs, -1)
    call('ZADD', ENDED, text(now), id)
    keep(ENDED)
    is_freed = true
end

local function give_up_all(owner)
    local waiters = call('HGETALL', WAITERS)
    for i = 1, #waiters, 2 do
        if string.match(waiters[i + 1], '^%S+ (%S+) ') == owner then
            give_up(waiters[i])
        end
    end
end

-- What it reserved may have been charged in full; its claims hold everybody up.
local function expire_process(dead)
    call('ZREM', PROCESSES, dead)
    local leases = call('HGETALL', LEASES)
    for i = 1, #leases, 2 do
        local owner, costs = string.match(leases[i + 1], '^%S+ (%S+) [^|]*|([^|]*)|')
        if owner == dead then
            local units_of_lease = units_in(costs)
            end_lease(leases[i], units_of_lease)
            for name, units in pairs(units_of_lease) do
                if buckets[name] then
                    charge(buckets[name], units, units)
                end
            end
        end
    end
    give_up_all(dead)
end

local function expire_dead()
    for _, dead in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', text(now), 'LIMIT', 0, 16)) do
        expire_process(dead)
    end
end

local function heartbeat()
    call('ZADD', PROCESSES, text(now + ALIVE_US), process)
end

-- What is in the way of a cost at the head of the line: its wait (0, microseconds or NEVER), dimension, used, limit.
local function wait_of(costs)
    local wait, dimension, used, limit = 0, '', 0, 0
    for name, cost in pairs(costs) do
        local bucket = buckets[name]
        if bucket then
            local left, taken = max(0, drained(bucket) - now), bucket.held + cost
            local excess = NEVER
            if taken <= bucket.limit then
                excess = left + time_of(bucket, taken) - bucket.period
            end
            if excess == NEVER or excess > wait then
                wait, dimension, used, limit = excess, name, bucket.held + units_of(bucket, left), bucket.limit
            end
            if excess == NEVER then
                break
            end
        end
    end
    return wait, dimension, used, limit
end

local function pause_left()
    return max(number('pause'), number('heal')) - now
end

local function head_of_line()
    local rank = call('ZRANGE', LINE, 0, 0)[1]
    if not rank then
        return nil
    end
    local record = call('HGET', WAITERS, string.sub(rank, 35))
    if not record then  -- one of the two keys was evicted
        call('ZREM', LINE, rank)
        return head_of_line()
    end
    local owner, costs = string.match(record, '^%S+ (%S+) [^|]*|(.*)$')
    return rank, owner, costs
end

-- The head hears when to come; all who listen hear how things stand, for the day on which the store forgets it.
local function tell_head(status)
    local rank, owner, costs = head_of_line()
    if rank then
        local wait = wait_of(units_in(costs))
        if wait ~= NEVER then
            wait = max(wait, pause_left())
        end
        call('PUBLISH', channel, owner .. ' ' .. text(wait) .. ' ' .. status)
    end
end

local function memory()
    local parts = {state.e, ' ', state.n, ' ', text(now), ' ', state.credits or '0', ' '}
    for _, name in ipairs(names) do
        parts[#parts + 1] = ';' .. name .. '='
        parts[#parts + 1] = buckets[name].packed
    end
    return table.concat(parts)
end

-- Forget ends of long ago, and turns that have passed: their clients stand where a newcomer does.
local function tidy()
    keep(unpack(KEYS))
    call('ZREMRANGEBYSCORE', ENDED, '-inf', text(now - KEPT_US))
    call('ZREMRANGEBYRANK', ENDED, 0, -1 - KEPT_MOST)
    if call('HLEN', TURNS) > KEPT_TURNS then
        local turns = call('HGETALL', TURNS)
        for i = 1, #turns, 2 do
            if tonumber(turns[i + 1]) <= number('v:' .. string.sub(turns[i], 1, 2)) then
                call('HDEL', TURNS, turns[i])
            end
        end
    end
end

local function finish(...)
    for name, bucket in pairs(buckets) do
        if bucket.is_changed then
            changed[#changed + 1] = 'd:' .. name
            changed[#changed + 1] = pack(bucket)
        end
    end
    put('n', text(number('n') + 1))
    put('t', text(now))
    call('HSET', STATE, unpack(changed))
    if is_new or number('n') % 64 == 0 then
        tidy()
    end
    local reply, status = {...}, memory()
    if is_freed then
        tell_head(status)
    end
    reply[6] = status
    return reply
end

local function done()
    return finish(DONE, 0, '', 0, 0)
end

local function grant(id, costs, printed, priority, tag)
    local before = {}
    for name in pairs(costs) do
        if buckets[name] then
            before[#before + 1] = format('%s=%.0f', name, buckets[name].ended)
        end
    end
    add_held(costs, 1)
    local record = format('%s %s %.0f|%s|%s', state.e, process, now, printed, table.concat(before, ';'))
    call('HSET', LEASES, id, record)
    keep(LEASES)
    if tag > number('v:' .. priority) then
        put('v:' .. priority, text(tag))
    end
end

local function stand_in_line(id, rank, tag, finish_tag, client, costs)
    put('arrivals', text(number('arrivals') + 1))
    call('ZADD', LINE, 0, rank)
    call('HSET', WAITERS, id, format('%s %s %.0f %.0f %s|%s', rank, process, tag, finish_tag, client, costs))
    keep(LINE, WAITERS)
end
