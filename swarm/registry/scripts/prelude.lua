-- Put before every script. KEYS[1] is the swarm's prefix, "{<swarm>}:"; all keys share its hash slot.
-- A script returns {1, ...} or {0, refusal, ...}.
local prefix = KEYS[1]
local max_events = 10000 -- MAX_EVENTS in store.py

local function key(...)
  return prefix .. table.concat({...}, ':')
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Its id says when: Redis's own clock, in milliseconds.
local function event(kind, ...)
  redis.call('XADD', key('events'), 'MAXLEN', '~', max_events, '*', 'kind', kind, ...)
end

local function newest_fence(node)
  return tonumber(redis.call('GET', key('fence', node)) or '0')
end

local function is_newest(node, fence)
  local newest = newest_fence(node)
  return newest > 0 and newest == tonumber(fence), newest
end
