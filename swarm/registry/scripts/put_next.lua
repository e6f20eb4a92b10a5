-- ARGV: series (gate | specification | revocations), version, envelope. Returns {1} or {0, 'not_next', newest}.
local series, version, envelope = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local newest = number(redis.call('GET', key(series, 'newest')))
if newest == 0 or redis.call('EXISTS', key(series, newest)) == 0 then -- none, or a damaged count
  newest = 0
  while redis.call('EXISTS', key(series, newest + 1)) == 1 do
    newest = newest + 1
  end
  if newest > 0 then
    redis.call('SET', key(series, 'newest'), newest)
  end
end
if redis.call('GET', key(series, version)) == envelope then
  return {1}
end
if version ~= newest + 1 then
  return {0, 'not_next', newest}
end
redis.call('SET', key(series, version), envelope)
redis.call('SET', key(series, 'newest'), version)
if series == 'revocations' then
  event('revocations.changed', 'f:number', version)
end
return {1}
