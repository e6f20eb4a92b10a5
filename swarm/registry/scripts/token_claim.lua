-- ARGV: id, hash, now in seconds, role or '', claimant or '', seconds that the claimant is remembered.
-- Uses the token once, and not at all for another role or the same claimant again; returns {1, role} or
-- {0, why not}.
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
if ARGV[4] ~= '' and ARGV[4] ~= known[2] then
  return {1, known[2]}
end
local claim = key('key', 'claim', ARGV[1], ARGV[5])
if ARGV[5] ~= '' and redis.call('EXISTS', claim) == 1 then
  return {1, known[2]}
end
if number(known[4]) <= tonumber(ARGV[3]) then
  return {0, 'expired'}
end
if number(known[3]) < 1 then
  return {0, 'used'}
end
redis.call('HINCRBY', token, 'uses', -1)
if ARGV[5] ~= '' then
  redis.call('SET', claim, '1', 'EX', ARGV[6])
end
return {1, known[2]}
