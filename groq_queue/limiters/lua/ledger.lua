-- One lane's budget: every call is one atomic step on the server's own clock.
--
-- Units: cost in whole units, time in whole microseconds. A double holds integers up to 2^53, so a level is never
-- kept as units * period (a day of tokens would pass that), but as the instant at which it will have drained.
-- Whatever must be rounded is rounded up: against us.
--
-- The law is in limiters/ledger.py: an open reservation is held in full and does not drain; an ended one becomes
-- level, which does, in two forms, strict and credited.
--
-- KEYS, all of one hash tag:
--   1 state     hash  e epoch, n steps taken, t last instant, pause, heal, credits, slowest, arrivals,
--                     v:<priority> largest fair tag granted, d:<dimension> the bucket as PACKED has it
--   2 leases    hash  id -> "epoch process granted|DIM=units;...|DIM=ended;..."
--   3 processes zset  process -> instant at which it is taken for dead
--   4 line      zset  rank -> 0; ranks sort as text: priority, fair tag, arrival, id
--   5 waiters   hash  id -> "rank process tag end client|DIM=units;..."
--   6 turns     hash  <priority>:<client> -> fair time at which its last turn ends
--   7 ended     zset  id -> instant; so that an end told twice counts once
-- ARGV: operation, process, channel, the epoch and the step that the caller saw last, then the operation's own.
--
-- Replies: {code, a, b, c, d, memory}. memory is "epoch step now credits DIM=<packed>DIM=<packed>...": what the caller
-- tells by "restore" when the store has forgotten.

local DONE, BLOCKED, TOO_LARGE, FORGOT = 1, 0, -1, -2
local NEVER = -1                -- a wait that only another's end can shorten
local ALIVE_US = 3000000        -- ledger.LEASE_S
local HEAL_US = 2000000         -- two heart-beats: in this time every live process has told what it remembers
local KEPT_US = 300000000       -- how long an ended id is known
local KEPT_MOST = 20000
local EXACT = 4503599627370496  -- 2^52
local PACKED = '<dddddddddd'     -- a bucket: ten doubles, all of them whole numbers

local STATE, LEASES, PROCESSES, LINE, WAITERS, TURNS, ENDED = unpack(KEYS)
local operation, process, channel, seen_epoch, seen_step = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local call, floor, ceil, max, min, format = redis.call, math.floor, math.ceil, math.max, math.min, string.format

local state, buckets, names, changed = {}, {}, {}, {}
local now, is_freed, is_new = 0, false, false

local function text(number)
    return format('%.0f', number)
end

local function unpacked(packed)
    local b = {packed = packed}
    b.limit, b.period, b.strict, b.credited, b.held, b.ended, b.lowered, b.restarts, b.base, b.base_credited =
        struct.unpack(PACKED, packed)
    return b
end

local function pack(b)
    b.packed = struct.pack(PACKED, b.limit, b.period, b.strict, b.credited, b.held, b.ended, b.lowered, b.restarts,
        b.base, b.base_credited)
    return b.packed
end

local function read_state()
    local clock = call('TIME')
    now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
    local flat = call('HGETALL', STATE)
    for i = 1, #flat, 2 do
        local field, value = flat[i], flat[i + 1]
        if string.sub(field, 1, 2) == 'd:' then
            local name = string.sub(field, 3)
            buckets[name] = unpacked(value)
            names[#names + 1] = name
        else
            state[field] = value
        end
    end
    table.sort(names)
end

local function put(field, value)
    state[field] = value
    changed[#changed + 1] = field
    changed[#changed + 1] = value
end

local function number(field)
    return tonumber(state[field] or 0)
end

-- Microseconds in which `units` drain, rounded up. Past 2^52 roundings may take less than 2 away: they are given back.
local function time_of(bucket, units)
    local product = units * bucket.period
    if product < EXACT then
        return floor((product + bucket.limit - 1) / bucket.limit)
    end
    local time = floor(product / bucket.limit) + 2
    if units <= bucket.limit then
        return min(time, bucket.period)
    end
    return time
end

local function units_of(bucket, time)
    return ceil(max(0, time) * bucket.limit / bucket.period)
end

local function drained(bucket)
    return state.credits and bucket.credited or bucket.strict
end

-- "DIM=units;..." as {dimension: units}
local function units_in(printed)
    local units = {}
    for name, count in string.gmatch(printed, '([^=;]+)=(%d+)') do
        units[name] = tonumber(count)
    end
    return units
end

local function add_held(costs, sign)
    for name, units in pairs(costs) do
        local bucket = buckets[name]
        if bucket then
            bucket.held = max(0, bucket.held + sign * units)
            bucket.is_changed = true
        end
    end
end

local function charge(bucket, requested, used)
    local counted = max(requested, used)
    if bucket.strict < now then
        bucket.restarts = bucket.restarts + 1
    end
    bucket.strict = max(bucket.strict, now) + time_of(bucket, counted)
    bucket.credited = max(bucket.credited, now) + time_of(bucket, used)
    bucket.ended = bucket.ended + counted
    bucket.is_changed = true
end

local function raise(bucket, units, age)
    if units > bucket.held then
        local least = now + time_of(bucket, units - bucket.held) - age
        if least > bucket.strict or least > bucket.credited then
            bucket.strict, bucket.credited = max(bucket.strict, least), max(bucket.credited, least)
            bucket.is_changed = true
        end
    end
end

local function held_by_leases(name)
    local held = 0
    for _, record in ipairs(call('HVALS', LEASES)) do
        held = held + (units_in(string.match(record, '|([^|]*)|'))[name] or 0)
    end
    return held
end

-- Give a bucket the size that the caller knows; units in use stay in use. Returns the bucket and whether it is new.
local function fit(name, limit, period)
    local bucket = buckets[name]
    if not bucket then
        bucket = {
            limit = limit, period = period, strict = now, credited = now, held = held_by_leases(name), ended = 0,
            lowered = 0, restarts = 1, base = now, base_credited = now, is_changed = true,
        }
        buckets[name] = bucket
        names[#names + 1] = name
        table.sort(names)
        is_new = true
        return bucket, true
    end
    if bucket.limit ~= limit or bucket.period ~= period then
        local units = {}
        for _, field in ipairs({'strict', 'credited', 'base', 'base_credited'}) do
            units[field] = units_of(bucket, bucket[field] - now)
        end
        bucket.limit, bucket.period, bucket.is_changed = limit, period, true
        for field, used in pairs(units) do
            bucket[field] = now + time_of(bucket, used)
        end
    end
    return bucket, false
end

-- {dimension, limit, period}* from ARGV[at], their number before them. Returns the next position and the new names.
local function fit_all(at)
    local count, fresh = tonumber(ARGV[at]), {}
    for i = at + 1, at + 3 * count, 3 do
        local _, is_new = fit(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
        fresh[ARGV[i]] = is_new
    end
    return at + 1 + 3 * count, fresh
end

local function lifetime_ms()
    local longest = 1800000000
    for _, bucket in pairs(buckets) do
        longest = max(longest, bucket.period)
    end
    return text(ceil(longest / 500))
end

local function keep(...)
    local lifetime = lifetime_ms()
    for _, key in ipairs({...}) do
        call('PEXPIRE', key, lifetime)
    end
end

local function begin_epoch(must_heal)
    is_new = true
    put('e', text(max(now, number('e') + 1)))
    for _, bucket in pairs(buckets) do
        bucket.strict, bucket.credited = max(bucket.strict, now), max(bucket.credited, now)
        bucket.base, bucket.base_credited, bucket.is_changed = bucket.strict, bucket.credited, true
    end
    local listeners = call('PUBLISH', channel, 'epoch')
    if must_heal or listeners > 0 then
        put('heal', text(now + HEAL_US))
    end
end

-- The server's clock went back, perhaps on another machine: take it that no time has passed.
local function turn_back(shift)
    for _, bucket in pairs(buckets) do
        for _, field in ipairs({'strict', 'credited', 'base', 'base_credited'}) do
            bucket[field] = max(0, bucket[field] - shift)
        end
        bucket.is_changed = true
    end
    for _, field in ipairs({'pause', 'heal'}) do
        if state[field] then
            put(field, text(max(0, number(field) - shift)))
        end
    end
    for _, key in ipairs({PROCESSES, ENDED}) do
        local members = call('ZRANGE', key, 0, -1, 'WITHSCORES')
        for i = 1, #members, 2 do
            call('ZADD', key, text(tonumber(members[i + 1]) - shift), members[i])
        end
    end
end

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

-- What it reserved may have been charged in full; its claims hold everybody up.
local function bury(dead)
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
    local waiters = call('HGETALL', WAITERS)
    for i = 1, #waiters, 2 do
        if string.match(waiters[i + 1], '^%S+ (%S+) ') == dead then
            give_up(waiters[i])
        end
    end
end

local function sweep()
    for _, dead in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', text(now), 'LIMIT', 0, 16)) do
        bury(dead)
    end
end

local function beat()
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

local function tell_head()
    local rank, owner, costs = head_of_line()
    if rank then
        local wait = wait_of(units_in(costs))
        if wait ~= NEVER then
            wait = max(wait, pause_left())
        end
        call('PUBLISH', channel, owner .. ' ' .. text(wait))
    end
end

local function memory()
    local parts = {state.e, ' ', state.n, ' ', text(now), ' ', state.credits or '0', ' '}
    for _, name in ipairs(names) do
        parts[#parts + 1] = name
        parts[#parts + 1] = '='
        parts[#parts + 1] = buckets[name].packed
    end
    return table.concat(parts)
end

local function finish(...)
    if is_freed then
        tell_head()
    end
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
        keep(STATE, PROCESSES)
    end
    local reply = {...}
    reply[6] = memory()
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

-- Forget turns that have passed: their clients stand where a newcomer does.
local function tidy_turns()
    if number('n') % 64 ~= 0 or call('HLEN', TURNS) < 512 then
        return
    end
    local turns = call('HGETALL', TURNS)
    for i = 1, #turns, 2 do
        if tonumber(turns[i + 1]) <= number('v:' .. string.sub(turns[i], 1, 2)) then
            call('HDEL', TURNS, turns[i])
        end
    end
end

local function stand_in_line(id, rank, tag, finish_tag, client, costs)
    put('arrivals', text(number('arrivals') + 1))
    call('ZADD', LINE, 0, rank)
    call('HSET', WAITERS, id, format('%s %s %.0f %.0f %s|%s', rank, process, tag, finish_tag, client, costs))
    keep(LINE, WAITERS)
end

local operations = {}

-- id, priority, client, length of its turn, costs, limits. Replies wait, reason or dimension, used, limit.
function operations.reserve()
    local id, priority, client = ARGV[6], format('%02d', tonumber(ARGV[7])), ARGV[8]
    local length, printed, costs = tonumber(ARGV[9]), ARGV[10], units_in(ARGV[10])
    beat()
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
        tidy_turns()
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
function operations.standing()
    local levels = {}
    for i, name in ipairs(names) do
        local bucket = buckets[name]
        local used = bucket.held + units_of(bucket, drained(bucket) - now)
        levels[i] = {name, used, bucket.limit, bucket.period}
    end
    return finish(DONE, max(0, number('pause') - now), state.credits or '0', call('ZCARD', PROCESSES), levels)
end

function operations.beat()
    beat()
    call('ZREMRANGEBYSCORE', ENDED, '-inf', text(now - KEPT_US))
    call('ZREMRANGEBYRANK', ENDED, 0, -1 - KEPT_MOST)
    keep(STATE, LEASES, PROCESSES, LINE, WAITERS, TURNS, ENDED)
    return done()
end

function operations.leave()
    bury(process)
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
    -- An old copy of the store may hold leases that have ended since; their charge is in the levels just told.
    local leases = call('HGETALL', LEASES)
    for i = 1, #leases, 2 do
        local epoch, owner, costs = string.match(leases[i + 1], '^(%S+) (%S+) [^|]*|([^|]*)|')
        if owner == process and epoch ~= state.e and not mine[leases[i]] then
            end_lease(leases[i], units_in(costs))
        end
    end
    beat()
    keep(LEASES, PROCESSES)
    is_freed = true
    return done()
end

read_state()
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
if operation ~= 'restore' then
    if seen_epoch ~= '' and seen_epoch ~= state.e then
        return finish(FORGOT, 0, '', 0, 0)
    end
    sweep()
end
return operations[operation]()
