-- ARGV: id, hash, now in seconds. Uses the token once; returns {1, role} or {0, why not}.
local token = key('token', ARGV[1])
local known = redis.call('HMGET', token, 'hash', 'role', 'uses', 'expires_at', 'revoked')
if not known[1] then
  return {0, 'unknown'}
end
if known[1] ~= ARGV[2] then
  return {0, 'wrong'}
end
if known[5] == '1' then
  return {0, 'revoked'}
end
if tonumber(known[4]) <= tonumber(ARGV[3]) then
  return {0, 'expired'}
end
if tonumber(known[3]) < 1 then
  return {0, 'used'}
end
redis.call('HINCRBY', token, 'uses', -1)
return {1, known[2]}
