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

-- What is damaged counts as nothing.
local function number(value)
  return tonumber(value or '0') or 0
end

local function newest_fence(node)
  return number(redis.call('GET', key('fence', node)))
end

local function is_newest(node, fence)
  local newest = newest_fence(node)
  return newest > 0 and newest == tonumber(fence), newest
end
