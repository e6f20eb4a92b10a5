-- Returns {1, node, fence, expiry in ms, node, ...} of the leases that have not run out.
local found, now = {1}, now_ms()
for _, node in ipairs(redis.call('SMEMBERS', key('leased'))) do
  local fence = redis.call('GET', key('lease', node))
  if fence then
    table.insert(found, node)
    table.insert(found, number(fence))
    table.insert(found, now + redis.call('PTTL', key('lease', node)))
  else
    redis.call('SREM', key('leased'), node)
  end
end
return found
