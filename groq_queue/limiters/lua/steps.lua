-- The steps themselves, and what happens before any of them.

local operations = {}

-- id, priority, client, length of its turn, costs, limits. Replies wait, reason or dimension, used, limit.
function operations.reserve()
    local id, priority, client = ARGV[6], format('%02d', tonumber(ARGV[7])), ARGV[8]
    local length, printed, costs = tonumber(ARGV[9]), ARGV[10], units_in(ARGV[10])
    expire_dead()
    heartbeat()
    if call('HEXISTS', LEASES, id) == 1 then
        return done()
    end
    fit_all(11)
    for _, name in ipairs(names) do
        if (costs[name] or 0) > buckets[name].limit then
            give_up(id)
            return finish(TOO_LARGE, 0, name, costs[name], buckets[name].limit)
        end
    end
    local known = call('HGET', WAITERS, id)
    local rank, tag, turn, finish_tag
    if known then
        local known_rank, known_tag = string.match(known, '^(%S+) %S+ (%d+) ')
        rank, tag = known_rank, tonumber(known_tag)
        local record = string.match(known, '^[^|]*|') .. printed
        if record ~= known then
            call('HSET', WAITERS, id, record)
        end
    else
        turn = priority .. ':' .. client
        tag = max(number('v:' .. priority), tonumber(call('HGET', TURNS, turn) or 0))
        finish_tag = tag + length
        rank = priority .. format('%016.0f%016.0f', tag, number('arrivals')) .. id
        call('HSET', TURNS, turn, text(finish_tag))
        keep(TURNS)
    end
    local head = head_of_line()
    local is_first = not head or head == rank or (not known and rank < head)
    local wait, dimension, used, limit = wait_of(costs)
    if pause_left() <= 0 and is_first and wait == 0 then
        if known then
            leave_line(id, known)
        end
        is_freed = is_freed or head ~= nil
        grant(id, costs, printed, priority, tag)
        return done()
    end
    if not known then
        stand_in_line(id, rank, tag, finish_tag, client, printed)
    end
    if pause_left() > 0 then
        return finish(BLOCKED, pause_left(), 'hold', state.pause_dimension or '', 0)
    elseif not is_first then
        return finish(BLOCKED, NEVER, 'behind', 0, 0)
    end
    return finish(BLOCKED, wait, dimension, used, limit)
end

-- limits, id, number of {dimension, requested, used}, these, {dimension, limit, remaining, lowers}*
function operations.settle()
    local at, fresh = fit_all(6)
    local id, count = ARGV[at], tonumber(ARGV[at + 1])
    local last = at + 1 + 3 * count
    local record, granted, before = call('HGET', LEASES, id), nil, {}
    if record then
        local instant, costs, ended = string.match(record, '^%S+ %S+ (%d+)|([^|]*)|(.*)$')
        granted = tonumber(instant)
        end_lease(id, units_in(costs))
        before = units_in(ended)
        put('slowest', text(max(number('slowest'), now - granted)))
    elseif call('ZSCORE', ENDED, id) then
        return done()
    else
        -- The store lost it unnoticed, as a failover does with the last steps: it counts all the same.
        granted = now
        call('ZADD', ENDED, text(now), id)
        keep(ENDED)
        is_freed = true
    end
    local seen = {}
    for i = last + 1, #ARGV, 4 do
        seen[ARGV[i]] = {tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'}
    end
    for i = at + 2, last, 3 do
        local bucket = buckets[ARGV[i]]
        if bucket and not (fresh[ARGV[i]] and seen[ARGV[i]]) then
            charge(bucket, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
        end
    end
    for name, told in pairs(seen) do
        local bucket, limit, remaining, lowers = buckets[name], told[1], told[2], told[3]
        if bucket and fresh[name] then
            bucket.strict = now + time_of(bucket, max(0, bucket.limit - remaining))
            bucket.credited = bucket.strict
        elseif bucket then
            if lowers and before[name] then
                local since = bucket.ended - before[name]
                local most = now + time_of(bucket, max(0, limit - remaining + since))
                local excess = max(0, bucket.strict - most)
                bucket.lowered = bucket.lowered + floor(excess * bucket.limit / bucket.period)
                bucket.strict, bucket.credited = min(bucket.strict, most), min(bucket.credited, most)
                local slack = bucket.restarts * units_of(bucket, number('slowest')) + floor(bucket.limit / 100)
                if bucket.lowered > slack and not state.credits then
                    put('credits', '1')
                end
                bucket.is_changed = true
            end
            raise(bucket, bucket.limit - remaining, now - granted)
        end
    end
    return done()
end

-- id: it waits no longer; or it was granted, perhaps in a reply that was lost, and nothing was sent for it.
function operations.refund()
    give_up(ARGV[6])
    local record = call('HGET', LEASES, ARGV[6])
    if record then
        end_lease(ARGV[6], units_in(string.match(record, '|([^|]*)|')))
    end
    return done()
end

-- limits, {dimension, units}*
function operations.charge()
    for i = fit_all(6), #ARGV, 2 do
        if buckets[ARGV[i]] then
            charge(buckets[ARGV[i]], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 1]))
        end
    end
    return done()
end

-- wait, dimension
function operations.hold()
    if now + tonumber(ARGV[6]) > number('pause') then
        put('pause', text(now + tonumber(ARGV[6])))
        put('pause_dimension', ARGV[7])
    end
    return done()
end

-- limits, dimension, used, age
function operations.at_least()
    local at = fit_all(6)
    if buckets[ARGV[at]] then
        raise(buckets[ARGV[at]], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
    end
    return done()
end

-- Replies credits, what is left of a pause, the processes, {dimension, used, limit, period}*.
function operations.status()
    local levels = {}
    for i, name in ipairs(names) do
        local bucket = buckets[name]
        local used = bucket.held + units_of(bucket, drained(bucket) - now)
        levels[i] = {name, used, bucket.limit, bucket.period}
    end
    return finish(DONE, max(0, number('pause') - now), state.credits or '0', call('ZCOUNT', PROCESSES, text(now), '+inf'), levels)
end

function operations.heartbeat()
    heartbeat()
    is_new = true  -- a good time to tidy up
    return done()
end

function operations.leave()
    expire_process(process)
    return done()
end

-- credits, limits, number of {dimension, microseconds to zero, strict and credited}, these, {id, costs}*:
-- all that the caller remembers.
function operations.restore()
    if ARGV[6] == '1' and not state.credits then
        put('credits', '1')
    end
    local at, mine = fit_all(7), {}
    local last = at + 3 * tonumber(ARGV[at])
    for i = at + 1, last, 3 do
        -- What was charged since the store forgot stands above the base; the base is the most that anyone knew.
        local bucket, strict, credited = buckets[ARGV[i]], now + tonumber(ARGV[i + 1]), now + tonumber(ARGV[i + 2])
        if strict > bucket.base then
            bucket.strict, bucket.base = max(bucket.strict, bucket.base) + strict - bucket.base, strict
        end
        if credited > bucket.base_credited then
            bucket.credited = max(bucket.credited, bucket.base_credited) + credited - bucket.base_credited
            bucket.base_credited = credited
        end
        bucket.is_changed = true
    end
    for i = last + 1, #ARGV, 2 do
        local id, costs = ARGV[i], ARGV[i + 1]
        if not call('ZSCORE', ENDED, id) then
            if call('HEXISTS', LEASES, id) == 0 then
                add_held(units_in(costs), 1)
            end
            -- Without what had ended before: nobody knows any more, and headers may not lower a level by it.
            call('HSET', LEASES, id, format('%s %s %.0f|%s|', state.e, process, now, costs))
            mine[id] = true
        end
    end
    -- An old copy of the store may hold leases that have ended since; their charge is in the levels just told. Claims
    -- that were met since would hold up the line; those that still wait are asked for again.
    local leases = call('HGETALL', LEASES)
    for i = 1, #leases, 2 do
        local epoch, owner, costs = string.match(leases[i + 1], '^(%S+) (%S+) [^|]*|([^|]*)|')
        if owner == process and epoch ~= state.e and not mine[leases[i]] then
            end_lease(leases[i], units_in(costs))
        end
    end
    give_up_all(process)
    heartbeat()
    keep(LEASES, PROCESSES)
    is_freed = true
    return done()
end

read_state()
if operation == 'status' and not state.e and seen_epoch == '' then  -- to look is not to make
    return {DONE, 0, '0', 0, {}, ''}
end
if number('t') > now then
    turn_back(number('t') - now)
end
if not state.e then
    begin_epoch(seen_epoch ~= '')
elseif seen_epoch == state.e and number('n') < seen_step then
    begin_epoch(true)
elseif seen_epoch ~= '' and tonumber(seen_epoch) > tonumber(state.e) then  -- an older copy has come back
    put('e', seen_epoch)
    begin_epoch(true)
end
if operation ~= 'restore' and seen_epoch ~= '' and seen_epoch ~= state.e then
    return finish(FORGOT, 0, '', 0, 0)
end
return operations[operation]()
