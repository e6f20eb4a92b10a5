-- ARGV: expert, owner, version, digest, envelope (of a version that was accepted before), 1 if it may be the head
-- else 0, fence or '', 1 to replace what is damaged else 0. Returns {1, 1 if it was lost else 0}.
local expert, owner, version = ARGV[1], ARGV[2], tonumber(ARGV[3])
local digest, envelope = ARGV[4], ARGV[5]
local as_head, fence, mend = ARGV[6] == '1', ARGV[7], ARGV[8] == '1'
if fence ~= '' then
  local current, newest = is_newest(owner, fence)
  if not current then
    return {0, 'stale_fence', newest}
  end
end
local held = redis.call('HGET', key('versions', expert), version)
if held and held ~= digest and not mend then
  return {0, 'other_at_version', held}
end
local head = redis.call('HMGET', key('expert', expert), 'version', 'manifest')
local gone = redis.call('HEXISTS', key('tombstones'), expert) + redis.call('HEXISTS', key('tombstones'), owner)
local is_newer = as_head and gone == 0 and (mend or version > number(head[1]))
local was_lost = redis.call('SETNX', key('manifest', digest), envelope)
if was_lost == 1 then
  redis.call('RPUSH', key('manifests'), digest)
elseif mend then
  redis.call('SET', key('manifest', digest), envelope)
  if not redis.call('LPOS', key('manifests'), digest) then
    redis.call('RPUSH', key('manifests'), digest)
  end
end
if was_lost == 0 and held == digest and not is_newer and not mend then
  return {1, 0}
end
redis.call('HSET', key('versions', expert), version, digest)
if is_newer then
  redis.call('HSET', key('expert', expert), 'version', version, 'manifest', digest)
  redis.call('SADD', key('experts'), expert)
  event('module.restored', 'f:expert', expert, 'f:version', version, 'f:manifest', digest, 'f:owner', owner)
end
return {1, 1}
