-- ARGV: id, hash, role, uses, expiry, time of creation. Returns {1, 1}, or {1, 0} if the id is taken.
local token = key('token', ARGV[1])
if redis.call('EXISTS', token) == 1 then
  return {1, 0}
end
redis.call('HSET', token, 'hash', ARGV[2], 'role', ARGV[3], 'uses', ARGV[4], 'expires_at', ARGV[5],
  'created_at', ARGV[6], 'revoked', '0')
redis.call('SADD', key('tokens'), ARGV[1])
return {1, 1}
