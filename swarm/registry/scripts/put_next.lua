-- ARGV: series (gate | specification | revocations), version, envelope. Returns {1} or {0, 'not_next', newest}.
local series, version, envelope = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if redis.call('GET', key(series, version)) == envelope then
  return {1}
end
local newest = tonumber(redis.call('GET', key(series, 'newest')) or '0')
if version ~= newest + 1 then
  return {0, 'not_next', newest}
end
redis.call('SET', key(series, version), envelope)
redis.call('SET', key(series, 'newest'), version)
if series == 'revocations' then
  event('revocations.changed', 'f:number', version)
end
return {1}
