-- ARGV: id. Returns {1, 1}, or {1, 0} if there is no such token.
local token = key('token', ARGV[1])
if redis.call('EXISTS', token) == 0 then
  return {1, 0}
end
redis.call('HSET', token, 'revoked', '1')
return {1, 1}
