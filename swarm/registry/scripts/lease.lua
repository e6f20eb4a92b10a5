-- ARGV: grant | renew | drop, node, fence (of grant: one that is known to have been given), time to live in ms.
-- Returns fence and expiry in ms.
local act, node, fence, ttl_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if act == 'grant' then
  fence = math.max(newest_fence(node), tonumber(fence)) + 1
  redis.call('SET', key('fence', node), string.format('%d', fence))
else
  local current, newest = is_newest(node, fence)
  if not current then
    return {0, 'stale_fence', newest}
  end
end
if act == 'drop' then
  redis.call('DEL', key('lease', node))
  redis.call('SREM', key('leased'), node)
  return {1}
end
redis.call('SET', key('lease', node), fence, 'PX', ttl_ms)
redis.call('SADD', key('leased'), node)
return {1, tonumber(fence), now_ms() + ttl_ms}
