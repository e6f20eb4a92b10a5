-- ARGV: target (an expert or a node), its owner, tombstone, fence or '', idempotency key, seconds that the
-- key is remembered. Returns {1, expert, ...}: those that had a head. A key is remembered with its target, then
-- those experts.
local target, owner, tombstone, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local idempotency, memory_s = ARGV[5], ARGV[6]
local done = key('key', 'withdraw', owner, idempotency)

if idempotency ~= '' then
  local first = redis.call('GET', done)
  if first then
    local told = {}
    for word in string.gmatch(first, '%S+') do
      table.insert(told, word)
    end
    if told[1] ~= target then
      return {0, 'key_reused'}
    end
    told[1] = 1
    return told
  end
end
if fence ~= '' then
  local current, newest = is_newest(owner, fence)
  if not current then
    return {0, 'stale_fence', newest}
  end
end

redis.call('HSETNX', key('tombstones'), target, tombstone)
local experts = redis.call('SMEMBERS', key('experts'))
table.sort(experts)
local gone = {}
for _, expert in ipairs(experts) do
  if expert == target or string.sub(expert, 1, #target + 1) == target .. '.' then
    redis.call('DEL', key('expert', expert))
    redis.call('SREM', key('experts'), expert)
    event('expert.withdrawn', 'f:expert', expert, 'f:owner', owner)
    table.insert(gone, expert)
  end
end
table.insert(gone, 1, target)
if idempotency ~= '' then
  redis.call('SET', done, table.concat(gone, ' '), 'EX', memory_s)
end
gone[1] = 1
return gone
