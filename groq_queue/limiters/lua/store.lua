-- One lane's budget: every call is one atomic step on the server's own clock. This file, line.lua and steps.lua are
-- one script.
--
-- Units: cost in whole units, time in whole microseconds. A double holds integers up to 2^53, so a level is never
-- kept as units * period (a day of tokens would pass that), but as the instant at which it will have drained.
-- Whatever must be rounded is rounded up: against us.
--
-- The law is in limiters/store.py: an open reservation is held in full and does not drain; an ended one becomes
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
-- Replies: {code, a, b, c, d, memory}. memory is "epoch step now credits ;DIM=<packed>;DIM=<packed>...": what the caller
-- tells by "restore" when the store has forgotten.

local DONE, BLOCKED, TOO_LARGE, FORGOT = 1, 0, -1, -2
local NEVER = -1                -- a wait that only another's end can shorten
local ALIVE_US = 3000000        -- LEASE_S of limiters/store.py
local HEAL_US = 2000000         -- two heart-beats: in this time every live process has told what it remembers
local KEPT_US = 300000000       -- how long an ended id is known
local KEPT_MOST = 20000
local KEPT_TURNS = 512
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
