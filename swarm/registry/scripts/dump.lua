-- Returns {1, key without prefix, payload, time to live in ms or 0, ...} of everything, as of one moment.
local found = {1}
for _, name in ipairs(redis.call('KEYS', prefix .. '*')) do
  table.insert(found, string.sub(name, #prefix + 1))
  table.insert(found, redis.call('DUMP', name))
  table.insert(found, math.max(redis.call('PTTL', name), 0))
end
return found
