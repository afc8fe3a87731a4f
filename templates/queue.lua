-- ogen: what happens to jobs, each step one atomic script of Redis (7 or newer).
--
-- KEYS[1] is the pool's prefix P. Its keys: P job:ID (a hash), P out:ID (a stream of what the job says while
-- it runs), and the sets that say where a job is: P waiting (by priority, then by turn), P delayed (until
-- when), P running (until when its lease holds), P dead (since when); P deadlines, P bell (rung for workers).
-- A running job has a fence, a number that each start of it raises: who holds an older one can change nothing
-- any more, so a job comes to an end once, however many workers believe to have it.
-- When Redis is full, `submit` and `take` are refused: what was begun goes on to its end, and what waits is begun
-- when there is room for its answer. Bodies leave an eighth of the memory free, so that room there will be.

---- common
local P = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function job(id) return P .. 'job:' .. id end
local function get(id, name) return redis.call('HGET', job(id), name) end
local function number(id, name) return tonumber(get(id, name) or '0') end
local function say(id, kind, data)
    redis.call('XADD', P .. 'out:' .. id, 'MAXLEN', '~', 8192, '*', 'k', kind, 'd', data)
    redis.call('EXPIRE', P .. 'out:' .. id, 86400)
end
local function count(what) redis.call('HINCRBY', P .. 'stats', what, 1) end
local function holds(id, fence) return get(id, 'state') == 'running' and get(id, 'fence') == fence end

-- a client without waiting jobs is forgotten: its next one is as new
local function left(id)
    local client = get(id, 'rank') .. ':' .. get(id, 'client')
    if redis.call('HINCRBY', P .. 'clients', client, -1) <= 0 then
        redis.call('HDEL', P .. 'clients', client)
        redis.call('HDEL', P .. 'turns', client)
    end
end

local function wait(id)
    redis.call('HSET', job(id), 'state', 'waiting')
    redis.call('ZREM', P .. 'running', id)
    redis.call('ZREM', P .. 'delayed', id)
    redis.call('HINCRBY', P .. 'clients', get(id, 'rank') .. ':' .. get(id, 'client'), 1)
    redis.call('ZADD', P .. 'waiting', get(id, 'score'), id)
    redis.call('RPUSH', P .. 'bell', 1)
    redis.call('LTRIM', P .. 'bell', -64, -1)
end

local function gone(id)
    redis.call('DEL', job(id), P .. 'out:' .. id)
end

-- the one way to a final state: done, failed, expired, cancelled
local function final(id, state, name, text)
    local was = get(id, 'state')
    if was == 'waiting' then
        redis.call('ZREM', P .. 'waiting', id)
        left(id)
    end
    redis.call('ZREM', P .. 'running', id)
    redis.call('ZREM', P .. 'delayed', id)
    redis.call('ZREM', P .. 'deadlines', id)
    redis.call('HSET', job(id), 'state', state, 'finished', now, name, text)
    redis.call('HINCRBY', job(id), 'finals', 1)
    count(state)
    say(id, 'end', state)
    redis.call('EXPIRE', P .. 'out:' .. id, math.min(60, number(id, 'expiry')))
    if state ~= 'failed' then
        redis.call('HDEL', job(id), 'body')
        redis.call('EXPIRE', job(id), number(id, 'expiry'))
        return
    end
    redis.call('ZADD', P .. 'dead', now, id)
    for _, old in ipairs(redis.call('ZRANGE', P .. 'dead', 0, -1 - number(id, 'letters'))) do
        redis.call('ZREM', P .. 'dead', old)
        gone(old)
    end
end

local function late(id)
    local deadline = number(id, 'deadline')
    return deadline > 0 and deadline <= now
end

-- what a lost worker had: once more from the start, unless that was its last try
local function lost(id)
    count('lost')
    if late(id) then
        final(id, 'expired', 'error', 'its deadline passed')
    elseif number(id, 'attempts') >= number(id, 'tries') then
        final(id, 'failed', 'error', 'its worker was lost at the last try')
    else
        redis.call('HSET', job(id), 'error', 'its worker was lost')
        say(id, 'again', 'its worker was lost')
        wait(id)
    end
end

---- submit
-- ID, digest of the request, client, rank (0 comes first), deadline in ms from now (0: none), path, body,
-- places, tries, back-off in ms, expiry in s, dead letters to keep
local id, digest, client, rank = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HMGET', job(id), 'digest', 'state')
if known[1] then
    if known[1] ~= digest then return {'conflict', ''} end
    return {'known', known[2]}
end
if redis.call('EXISTS', P .. 'closed') == 1 then return {'closed', ''} end
local waiting = redis.call('ZCARD', P .. 'waiting') + redis.call('ZCARD', P .. 'delayed')
if waiting >= tonumber(ARGV[8]) then return {'full', waiting} end
local memory = redis.call('INFO', 'memory')
local most = tonumber(string.match(memory, 'maxmemory:(%d+)') or '0')
local used = tonumber(string.match(memory, 'used_memory:(%d+)') or '0')
if most > 0 and used + #ARGV[7] > most * 7 / 8 then return {'memory', ''} end
-- each client's jobs have turns one after another; one that had none waiting comes in at the turn in force
local who = rank .. ':' .. client
local turn = math.max(tonumber(redis.call('HGET', P .. 'turns', who) or '0'),
    tonumber(redis.call('HGET', P .. 'turn', rank) or '0')) + 1
redis.call('HSET', P .. 'turns', who, turn)
local deadline = 0
if ARGV[5] ~= '0' then
    deadline = now + tonumber(ARGV[5])
    redis.call('ZADD', P .. 'deadlines', deadline, id)
end
redis.call('HSET', job(id), 'digest', digest, 'client', client, 'rank', rank, 'deadline', deadline,
    'path', ARGV[6], 'body', ARGV[7], 'tries', ARGV[9], 'backoff', ARGV[10], 'expiry', ARGV[11],
    'letters', ARGV[12], 'attempts', 0, 'fence', 0, 'submitted', now, 'turn', turn,
    'score', string.format('%.0f', tonumber(rank) * 1e12 + turn))
count('submitted')
wait(id)
return {'new', 'waiting'}

---- take
-- worker, lease in ms: {ID, fence, attempt, tries, ms left to the deadline or 0, path, body}, or nothing
for _ = 1, 100 do
    local found = redis.call('ZPOPMIN', P .. 'waiting')
    if #found == 0 then return false end
    local id = found[1]
    if redis.call('EXISTS', job(id)) == 1 then
        if late(id) then
            redis.call('ZADD', P .. 'waiting', found[2], id)
            final(id, 'expired', 'error', 'its deadline passed while it waited')
        else
            left(id)
            local rank, turn = get(id, 'rank'), number(id, 'turn')
            if turn > tonumber(redis.call('HGET', P .. 'turn', rank) or '0') then
                redis.call('HSET', P .. 'turn', rank, turn)
            end
            local fence = redis.call('HINCRBY', job(id), 'fence', 1)
            local attempt = redis.call('HINCRBY', job(id), 'attempts', 1)
            redis.call('HSET', job(id), 'state', 'running', 'worker', ARGV[1], 'started', now)
            redis.call('ZADD', P .. 'running', now + tonumber(ARGV[2]), id)
            count('started')
            local deadline = number(id, 'deadline')
            local more = redis.call('HMGET', job(id), 'tries', 'path', 'body')
            return {id, fence, attempt, more[1], deadline > 0 and deadline - now or 0, more[2], more[3]}
        end
    end
end
return false

---- beat
-- ID, fence, lease in ms, and what the job says, if anything: 1, or 0 where it is not this worker's any more
if not holds(ARGV[1], ARGV[2]) then return 0 end
redis.call('ZADD', P .. 'running', now + tonumber(ARGV[3]), ARGV[1])
if ARGV[4] ~= '' then say(ARGV[1], 'token', ARGV[4]) end
return 1

---- finish
-- ID, fence, result: 1, or 0 where another has it, or it has ended
local id = ARGV[1]
if not holds(id, ARGV[2]) then
    count('stale')
    return 0
end
redis.call('HINCRBY', P .. 'stats', 'busy_ms', now - number(id, 'started'))
final(id, 'done', 'result', ARGV[3])
return 1

---- fail
-- ID, fence, error, whether it may be tried again ("1"), a random part from 0.5 to 1 of the back-off
local id = ARGV[1]
if not holds(id, ARGV[2]) then
    count('stale')
    return 0
end
local attempts = number(id, 'attempts')
if late(id) then
    final(id, 'expired', 'error', 'its deadline passed: ' .. ARGV[3])
elseif ARGV[4] ~= '1' or attempts >= number(id, 'tries') then
    final(id, 'failed', 'error', ARGV[3])
else
    local pause = math.min(number(id, 'backoff') * 2 ^ (attempts - 1), 300000) * tonumber(ARGV[5])
    redis.call('HSET', job(id), 'state', 'delayed', 'error', ARGV[3])
    redis.call('ZREM', P .. 'running', id)
    redis.call('ZADD', P .. 'delayed', now + math.floor(pause), id)
    count('retried')
    say(id, 'again', ARGV[3])
end
return 1

---- release
-- ID, fence: a worker that stops hands back what it has begun; it is no try
local id = ARGV[1]
if not holds(id, ARGV[2]) then return 0 end
redis.call('HINCRBY', job(id), 'attempts', -1)
count('released')
say(id, 'again', 'its worker stopped')
wait(id)
return 1

---- mine
-- worker: what it had before it was started anew; there is one process of its name
local found = 0
for _, id in ipairs(redis.call('ZRANGE', P .. 'running', 0, -1)) do
    if get(id, 'worker') == ARGV[1] then
        lost(id)
        found = found + 1
    end
end
return found

---- sweep
-- leases that ran out, back-offs and deadlines that are over
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'running', 0, now, 'LIMIT', 0, 500)) do lost(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'delayed', 0, now, 'LIMIT', 0, 500)) do wait(id) end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', 0, now, 'LIMIT', 0, 500)) do
    local state = get(id, 'state')
    if state == 'waiting' or state == 'delayed' then
        final(id, 'expired', 'error', 'its deadline passed while it waited')
    elseif state ~= 'running' then
        redis.call('ZREM', P .. 'deadlines', id)
    end
end
return 1

---- cancel
-- ID: 1, or 0 where it has ended or is not known
local state = get(ARGV[1], 'state')
if state ~= 'waiting' and state ~= 'delayed' and state ~= 'running' then return 0 end
redis.call('HINCRBY', job(ARGV[1]), 'fence', 1)
final(ARGV[1], 'cancelled', 'error', 'cancelled')
return 1

---- again
-- ID: a dead letter from the start; 1, or 0 where it is none
local id = ARGV[1]
if redis.call('ZREM', P .. 'dead', id) == 0 then return 0 end
if redis.call('EXISTS', job(id)) == 0 then return 0 end
redis.call('HSET', job(id), 'attempts', 0, 'finals', 0, 'deadline', 0)
redis.call('HDEL', job(id), 'finished')
redis.call('DEL', P .. 'out:' .. id)
wait(id)
return 1

---- discard
-- ID: a dead letter that nobody wants any more; 1, or 0 where it is none
if redis.call('ZREM', P .. 'dead', ARGV[1]) == 0 then return 0 end
gone(ARGV[1])
return 1

---- here
-- worker: it is up, and works for this pool
redis.call('ZADD', P .. 'workers', now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', P .. 'workers', 0, now - 86400000)
return 1
