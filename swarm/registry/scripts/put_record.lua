-- ARGV: member, envelope. Returns {1, 1} if this is the member's record now, {1, 0} if another one is.
local member, envelope = ARGV[1], ARGV[2]
if redis.call('SETNX', key('node', member), envelope) == 1 then
  redis.call('SADD', key('nodes'), member)
  return {1, 1}
end
return {1, redis.call('GET', key('node', member)) == envelope and 1 or 0}
