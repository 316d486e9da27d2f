-- One lane's budget: every call is one atomic step on the server's own clock.
--
-- Units: cost in whole units, time in whole microseconds. A double holds integers up to 2^53, so a level is never
-- kept as units * period (a day of tokens would pass that), but as the instant at which it will have drained.
-- Whatever must be rounded is rounded up: against us.
--
-- The law is core.bucket's: an open lease is held in full and does not drain; an ended one becomes level, which does.
--
-- KEYS, all of one hash tag:
--   1 state   hash    e epoch, n steps taken, t last instant, pause, heal, arrivals, v:<priority> fair time,
--                     d:<dimension> "limit period zero held base"
--   2 leases  hash    id -> "epoch process DIM=units;..."
--   3 expiry  zset    id -> instant at which the lease ends by itself
--   4 line    zset    rank -> 0; ranks sort as text: priority, fair tag, arrival, id
--   5 waiters hash    id -> "rank process tag finish client|DIM=units;..."
--   6 beats   zset    id -> instant at which the waiter is given up
--   7 turns   hash    <priority>:<client> -> fair time at which its last turn ends
--   8 ended   zset    id -> instant; so that an end told twice counts once
-- ARGV: operation, process, the epoch and step that the caller saw last, then the operation's own; channel is last.
--
-- Replies: {code, wait, reason, used, limit, memory}. memory is "epoch step now DIM=limit,period,zero;...": what the
-- caller gives back by "restore" when the store has forgotten.

local GRANTED, BLOCKED, TOO_LARGE, FORGOT = 1, 0, -1, -2
local NEVER = -1                -- a wait that only another's end can shorten
local HEAL_US = 2000000         -- two heart-beats: in this time every live process has told what it remembers
local KEPT_US = 300000000       -- how long an ended id is known
local KEPT_MOST = 20000
local EXACT = 4503599627370496  -- 2^52

local STATE, LEASES, EXPIRY, LINE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local WAITERS, BEATS, TURNS, ENDED = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local process, seen_epoch, seen_step = ARGV[2], ARGV[3], tonumber(ARGV[4])
local channel = ARGV[#ARGV]
local call = redis.call

local state, buckets, names, changed = {}, {}, {}, {}
local now, is_freed = 0, false

local function text(number)
    return string.format('%.0f', number)
end

-- Microseconds in which `units` drain, rounded up. Past 2^52 one rounding may be off by less than 2.
local function time_of(bucket, units)
    local product = units * bucket.period
    if product < EXACT then
        return math.floor((product + bucket.limit - 1) / bucket.limit)
    end
    local time = math.floor(product / bucket.limit) + 2
    if units <= bucket.limit and time > bucket.period then
        return bucket.period
    end
    return time
end

local function units_of(bucket, time)
    return math.ceil(time * bucket.limit / bucket.period)
end

local function each_cost(costs)
    return string.gmatch(costs, '([^=;]+)=(%d+)')
end

local function read_state()
    local clock = call('TIME')
    now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
    local flat = call('HGETALL', STATE)
    for i = 1, #flat, 2 do
        local field, value = flat[i], flat[i + 1]
        if string.sub(field, 1, 2) == 'd:' then
            local name = string.sub(field, 3)
            local limit, period, zero, held, base = string.match(value, '(%d+) (%d+) (%d+) (%d+) (%d+)')
            buckets[name] = {
                limit = tonumber(limit), period = tonumber(period), zero = tonumber(zero),
                held = tonumber(held), base = tonumber(base),
            }
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

local function touch(name)
    buckets[name].is_changed = true
end

local function charge(name, units)
    local bucket = buckets[name]
    if bucket then
        bucket.zero = math.max(bucket.zero, now) + time_of(bucket, units)
        touch(name)
    end
end

local function release(costs)
    for name, units in each_cost(costs) do
        local bucket = buckets[name]
        if bucket then
            bucket.held = math.max(0, bucket.held - tonumber(units))
            touch(name)
        end
    end
end

local function hold(costs)
    for name, units in each_cost(costs) do
        local bucket = buckets[name]
        if bucket then
            bucket.held = bucket.held + tonumber(units)
            touch(name)
        end
    end
end

-- Give a bucket the size that the caller knows; what is in use stays in use.
local function fit(name, limit, period)
    local bucket = buckets[name]
    if not bucket then
        buckets[name] = {limit = limit, period = period, zero = now, held = 0, base = now}
        names[#names + 1] = name
        touch(name)
    elseif bucket.limit ~= limit or bucket.period ~= period then
        local used = units_of(bucket, math.max(0, bucket.zero - now))
        local base = units_of(bucket, math.max(0, bucket.base - now))
        bucket.limit, bucket.period = limit, period
        bucket.zero, bucket.base = now + time_of(bucket, used), now + time_of(bucket, base)
        touch(name)
    end
end

local function lifetime_ms()
    local longest = 1800000000
    for _, bucket in pairs(buckets) do
        longest = math.max(longest, bucket.period)
    end
    return text(math.ceil(longest / 500))
end

local function keep(...)
    local lifetime = lifetime_ms()
    for _, key in ipairs({...}) do
        call('PEXPIRE', key, lifetime)
    end
end

local function begin_epoch(must_heal)
    put('e', text(now))
    for name, bucket in pairs(buckets) do
        bucket.zero = math.max(bucket.zero, now)
        bucket.base = bucket.zero
        touch(name)
    end
    local listeners = call('PUBLISH', channel, 'epoch')
    if must_heal or listeners > 0 then
        put('heal', text(now + HEAL_US))
    end
end

-- The server's clock went back, perhaps on another machine: take it that no time has passed.
local function turn_back(last)
    local shift = last - now
    for name, bucket in pairs(buckets) do
        bucket.zero, bucket.base = math.max(0, bucket.zero - shift), math.max(0, bucket.base - shift)
        touch(name)
    end
    for _, field in ipairs({'pause', 'heal'}) do
        if state[field] then
            put(field, text(math.max(0, tonumber(state[field]) - shift)))
        end
    end
    for _, key in ipairs({EXPIRY, BEATS, ENDED}) do
        local members = call('ZRANGE', key, 0, -1, 'WITHSCORES')
        for i = 1, #members, 2 do
            call('ZADD', key, text(tonumber(members[i + 1]) - shift), members[i])
        end
    end
end

local function leave_line(id)
    local record = call('HGET', WAITERS, id)
    if not record then
        return nil
    end
    local rank, owner, tag, finish, client, costs = string.match(record, '^(%S+) (%S+) (%d+) (%d+) ([^|]*)|(.*)$')
    call('ZREM', LINE, rank)
    call('HDEL', WAITERS, id)
    call('ZREM', BEATS, id)
    is_freed = true
    return {rank = rank, owner = owner, tag = tag, finish = finish, client = client, costs = costs}
end

-- Whoever leaves the line unserved gives its turn back, if nobody of its client has queued behind it.
local function give_up(id)
    local waiter = leave_line(id)
    if waiter then
        local turn = string.sub(waiter.rank, 1, 2) .. ':' .. waiter.client
        if call('HGET', TURNS, turn) == waiter.finish then
            call('HSET', TURNS, turn, waiter.tag)
        end
    end
end

local function end_lease(id, record)
    call('HDEL', LEASES, id)
    call('ZREM', EXPIRY, id)
    release(string.match(record, '^%S+ %S+ (.*)$'))
    is_freed = true
end

local function note_end(id)
    call('ZADD', ENDED, text(now), id)
end

-- Nobody answers for these any more: a lease may have been charged in full, a waiter holds everybody up.
local function sweep()
    local instant = text(now)
    for _, id in ipairs(call('ZRANGEBYSCORE', EXPIRY, '-inf', instant, 'LIMIT', 0, 100)) do
        local record = call('HGET', LEASES, id)
        if record then
            end_lease(id, record)
            for name, units in each_cost(string.match(record, '^%S+ %S+ (.*)$')) do
                charge(name, tonumber(units))
            end
            note_end(id)
        else
            call('ZREM', EXPIRY, id)
        end
    end
    for _, id in ipairs(call('ZRANGEBYSCORE', BEATS, '-inf', instant, 'LIMIT', 0, 100)) do
        give_up(id)
        call('ZREM', BEATS, id)
    end
end

-- The wait of a cost at the head of the line: 0, microseconds, or NEVER; and what is in the way.
local function wait_of(costs)
    local wait, reason, used, limit = 0, '', 0, 0
    local held_up = math.max(tonumber(state.pause or 0), tonumber(state.heal or 0)) - now
    if held_up > 0 then
        return held_up, 'hold:' .. (state.pause_dimension or ''), 0, 0
    end
    for name, cost in each_cost(costs) do
        local bucket = buckets[name]
        if bucket then
            local taken, left = bucket.held + tonumber(cost), math.max(0, bucket.zero - now)
            local excess = taken > bucket.limit and NEVER or left + time_of(bucket, taken) - bucket.period
            if excess == NEVER or (excess > 0 and excess > wait) then
                wait, reason = excess, 'limit:' .. name
                used, limit = bucket.held + units_of(bucket, left), bucket.limit
                if excess == NEVER then
                    break
                end
            end
        end
    end
    return wait, reason, used, limit
end

local function head_of_line()
    local rank = call('ZRANGE', LINE, 0, 0)[1]
    if not rank then
        return nil
    end
    local id = string.sub(rank, 35)
    local record = call('HGET', WAITERS, id)
    if not record then
        call('ZREM', LINE, rank)
        return head_of_line()
    end
    local owner, costs = string.match(record, '^%S+ (%S+) [^|]*|(.*)$')
    return {rank = rank, id = id, owner = owner, costs = costs}
end

local function tell_head()
    local head = head_of_line()
    if head then
        local wait = wait_of(head.costs)
        call('PUBLISH', channel, head.owner .. ' ' .. text(wait))
    end
end

local function memory()
    local parts = {}
    for _, name in ipairs(names) do
        local bucket = buckets[name]
        parts[#parts + 1] = name .. '=' .. text(bucket.limit) .. ',' .. text(bucket.period) .. ',' .. text(bucket.zero)
    end
    return state.e .. ' ' .. state.n .. ' ' .. text(now) .. ' ' .. table.concat(parts, ';')
end

local function finish(...)
    if is_freed then
        tell_head()
    end
    for name, bucket in pairs(buckets) do
        if bucket.is_changed then
            changed[#changed + 1] = 'd:' .. name
            changed[#changed + 1] = text(bucket.limit) .. ' ' .. text(bucket.period) .. ' ' .. text(bucket.zero)
                .. ' ' .. text(bucket.held) .. ' ' .. text(bucket.base)
        end
    end
    put('n', text(tonumber(state.n or 0) + 1))
    put('t', text(now))
    call('HSET', STATE, unpack(changed))
    call('PEXPIRE', STATE, lifetime_ms())
    local reply = {...}
    reply[#reply + 1] = memory()
    return reply
end

local function turn_of(priority, client, weight)
    local turn = priority .. ':' .. client
    local tag = math.max(tonumber(state['v:' .. priority] or 0), tonumber(call('HGET', TURNS, turn) or 0))
    return turn, tag, tag + weight
end

local function grant(id, costs, lease_us, priority, tag)
    hold(costs)
    call('HSET', LEASES, id, state.e .. ' ' .. process .. ' ' .. costs)
    call('ZADD', EXPIRY, text(now + lease_us), id)
    if tag > tonumber(state['v:' .. priority] or 0) then
        put('v:' .. priority, text(tag))
    end
    keep(LEASES, EXPIRY)
end

-- Forget turns that have passed: their clients stand where a newcomer does.
local function tidy_turns(priority)
    if call('HLEN', TURNS) < 1024 or tonumber(state.n or 0) % 64 ~= 0 then
        return
    end
    local turns = call('HGETALL', TURNS)
    for i = 1, #turns, 2 do
        local past = tonumber(state['v:' .. string.sub(turns[i], 1, 2)] or 0)
        if tonumber(turns[i + 1]) <= past then
            call('HDEL', TURNS, turns[i])
        end
    end
end

local operations = {}

-- id, priority, client, step of its fair time, lease, patience of the line, {dimension, limit, period, cost}*
function operations.reserve()
    local id, priority, client = ARGV[5], string.format('%02d', tonumber(ARGV[6])), ARGV[7]
    local step, lease_us, patience_us = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
    if call('HEXISTS', LEASES, id) == 1 then
        return finish(GRANTED, 0, '', 0, 0)
    end
    local parts = {}
    for i = 11, #ARGV - 1, 4 do
        local name, limit, period, cost = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
        if limit > 0 then
            fit(name, limit, period)
        end
        if buckets[name] then
            if tonumber(cost) > buckets[name].limit then
                give_up(id)
                return finish(TOO_LARGE, 0, name, tonumber(cost), buckets[name].limit)
            end
            parts[#parts + 1] = name .. '=' .. cost
        end
    end
    local costs = table.concat(parts, ';')
    local known = call('HGET', WAITERS, id)
    local rank, turn, tag, finish_tag
    if known then
        local known_rank, known_tag = string.match(known, '^(%S+) %S+ (%d+) ')
        rank, tag = known_rank, tonumber(known_tag)
        call('HSET', WAITERS, id, (string.gsub(known, '|.*$', '|' .. costs)))
    else
        turn, tag, finish_tag = turn_of(priority, client, step)
        rank = priority .. string.format('%016.0f%016.0f', tag, tonumber(state.arrivals or 0)) .. id
    end
    local head = head_of_line()
    local is_head = not head or head.rank == rank or (not known and rank < head.rank)
    local wait, reason, used, limit = wait_of(costs)
    if is_head and wait == 0 then
        if known then
            leave_line(id)
        else
            call('HSET', TURNS, turn, text(finish_tag))
            keep(TURNS)
            is_freed = head ~= nil
        end
        grant(id, costs, lease_us, priority, tag)
        tidy_turns(priority)
        return finish(GRANTED, 0, '', 0, 0)
    end
    if not known then
        put('arrivals', text(tonumber(state.arrivals or 0) + 1))
        call('HSET', TURNS, turn, text(finish_tag))
        call('ZADD', LINE, 0, rank)
        local record = rank .. ' ' .. process .. ' ' .. text(tag) .. ' ' .. text(finish_tag) .. ' ' .. client
        call('HSET', WAITERS, id, record .. '|' .. costs)
    end
    call('ZADD', BEATS, text(now + patience_us), id)
    keep(LINE, WAITERS, BEATS, TURNS)
    if not is_head and string.sub(reason, 1, 5) ~= 'hold:' then
        return finish(BLOCKED, NEVER, 'behind', used, limit)
    end
    return finish(BLOCKED, is_head and wait or NEVER, reason, used, limit)
end

-- id: it waits no longer; and if it was granted and the reply was lost, nothing was sent for it.
function operations.withdraw()
    local id = ARGV[5]
    give_up(id)
    local record = call('HGET', LEASES, id)
    if record then
        end_lease(id, record)
        note_end(id)
        keep(ENDED)
    end
    return finish(GRANTED, 0, '', 0, 0)
end

-- id, {dimension, units}*: a lease the store has forgotten is charged all the same.
function operations.settle()
    local id = ARGV[5]
    local record = call('HGET', LEASES, id)
    if record then
        end_lease(id, record)
    elseif call('ZSCORE', ENDED, id) then
        return finish(BLOCKED, 0, '', 0, 0)
    end
    for i = 6, #ARGV - 2, 2 do
        charge(ARGV[i], tonumber(ARGV[i + 1]))
    end
    note_end(id)
    keep(ENDED)
    return finish(GRANTED, 0, '', 0, 0)
end

-- wait, dimension
function operations.hold()
    local wait, dimension = tonumber(ARGV[5]), ARGV[6]
    if now + wait > tonumber(state.pause or 0) then
        put('pause', text(now + wait))
        put('pause_dimension', dimension)
    end
    return finish(GRANTED, 0, '', 0, 0)
end

-- dimension, used, limit: as the server tells them. Open leases may be part of it already.
function operations.at_least()
    local bucket, used, limit = buckets[ARGV[5]], tonumber(ARGV[6]), tonumber(ARGV[7])
    if bucket then
        local level = bucket.limit - (limit - used) - bucket.held
        if level > 0 then
            bucket.zero = math.max(bucket.zero, now + time_of(bucket, level))
            touch(ARGV[5])
        end
    end
    return finish(GRANTED, 0, '', 0, 0)
end

function operations.levels()
    local levels = {}
    for _, name in ipairs(names) do
        local bucket = buckets[name]
        local used = bucket.held + units_of(bucket, math.max(0, bucket.zero - now))
        levels[#levels + 1] = {name, used, bucket.limit, bucket.period}
    end
    return finish(GRANTED, 0, '', levels, 0)
end

-- lease, patience, number of leases, their ids, ids of waiters. Replies the wait of the head if it is the caller's,
-- and in `used` the waiters that the store does not know.
function operations.beat()
    local lease_us, patience_us, leases = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
    for i = 8, 7 + leases do
        if call('HEXISTS', LEASES, ARGV[i]) == 1 then
            call('ZADD', EXPIRY, text(now + lease_us), ARGV[i])
        end
    end
    local strangers = {}
    for i = 8 + leases, #ARGV - 1 do
        if call('HEXISTS', WAITERS, ARGV[i]) == 1 then
            call('ZADD', BEATS, text(now + patience_us), ARGV[i])
        else
            strangers[#strangers + 1] = ARGV[i]
        end
    end
    call('ZREMRANGEBYSCORE', ENDED, '-inf', text(now - KEPT_US))
    call('ZREMRANGEBYRANK', ENDED, 0, -1 - KEPT_MOST)
    keep(LEASES, EXPIRY, LINE, WAITERS, BEATS, TURNS, ENDED)
    local head = head_of_line()
    if head and head.owner == process then
        return finish(GRANTED, (wait_of(head.costs)), 'head', strangers, 0)
    end
    return finish(BLOCKED, NEVER, '', strangers, 0)
end

-- number of leases, {id, costs}*, lease, {dimension, limit, period, microseconds to zero}*: what the caller remembers.
function operations.restore()
    local leases, mine = tonumber(ARGV[5]), {}
    local at = 6 + 2 * leases
    for i = at + 1, #ARGV - 1, 4 do
        local name, zero = ARGV[i], now + tonumber(ARGV[i + 3])
        fit(name, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
        local bucket = buckets[name]
        -- What others charged since the store forgot stands above the base; the base is the most that anyone knew.
        if zero > bucket.base then
            bucket.zero, bucket.base = bucket.zero + zero - bucket.base, zero
            touch(name)
        end
    end
    for i = 6, at - 1, 2 do
        local id, costs = ARGV[i], ARGV[i + 1]
        mine[id] = true
        local known = call('HGET', LEASES, id)
        if known then
            call('HSET', LEASES, id, state.e .. ' ' .. process .. ' ' .. string.match(known, '^%S+ %S+ (.*)$'))
            call('ZADD', EXPIRY, text(now + tonumber(ARGV[at])), id)
        elseif not call('ZSCORE', ENDED, id) then
            hold(costs)
            call('HSET', LEASES, id, state.e .. ' ' .. process .. ' ' .. costs)
            call('ZADD', EXPIRY, text(now + tonumber(ARGV[at])), id)
        end
    end
    -- An old copy of the store may hold leases that have ended since; their charge is in the levels just told.
    local all = call('HGETALL', LEASES)
    for i = 1, #all, 2 do
        local epoch, owner = string.match(all[i + 1], '^(%S+) (%S+) ')
        if owner == process and epoch ~= state.e and not mine[all[i]] then
            end_lease(all[i], all[i + 1])
            note_end(all[i])
        end
    end
    keep(LEASES, EXPIRY, ENDED)
    is_freed = true
    return finish(GRANTED, 0, '', 0, 0)
end

read_state()
if state.t and tonumber(state.t) - now > 0 then
    turn_back(tonumber(state.t))
end
if not state.e then
    begin_epoch(seen_epoch ~= '')
elseif seen_epoch == state.e and tonumber(state.n) < seen_step then
    begin_epoch(true)
end
if ARGV[1] ~= 'restore' and seen_epoch ~= '' and seen_epoch ~= state.e then
    return finish(FORGOT, 0, '', 0, 0)
end
if ARGV[1] ~= 'restore' then
    sweep()
end
return operations[ARGV[1]]()
