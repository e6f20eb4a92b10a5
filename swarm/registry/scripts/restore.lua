-- ARGV: key without prefix, payload, time to live in ms, ...: what dump.lua gave. Returns {1} or {0, keys held}.
local held = #redis.call('KEYS', prefix .. '*')
if held > 0 then
  return {0, tostring(held)}
end
for row = 1, #ARGV, 3 do
  redis.call('RESTORE', prefix .. ARGV[row], ARGV[row + 2], ARGV[row + 1])
end
return {1}
