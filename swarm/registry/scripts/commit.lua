-- ARGV: commit | restore, expert, owner, version, parent version, digest, envelope, fence or '', idempotency
-- key, seconds that the key is remembered. Returns {1, 1 if the head moved else 0}.
local act, expert, owner = ARGV[1], ARGV[2], ARGV[3]
local version, parent, digest, envelope = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local fence, idempotency, memory_s = ARGV[8], ARGV[9], ARGV[10]
local done = key('key', 'commit', owner, idempotency)

if idempotency ~= '' then
  local first = redis.call('GET', done)
  if first then
    if first ~= digest then
      return {0, 'key_reused'}
    end
    return {1, 0}
  end
end

for _, target in ipairs({expert, owner}) do
  if redis.call('HEXISTS', key('tombstones'), target) == 1 then
    return {0, 'withdrawn', target}
  end
end

local head = redis.call('HMGET', key('expert', expert), 'version', 'manifest')
local head_version = tonumber(head[1] or '0')
local moved = 0
if act == 'restore' or redis.call('EXISTS', key('manifest', digest)) == 0 then
  if fence ~= '' then
    local current, newest = is_newest(owner, fence)
    if not current then
      return {0, 'stale_fence', newest}
    end
  end
  local kind = 'module.published'
  if act == 'restore' then
    kind = 'module.restored'
    if version == head_version and head[2] ~= digest then
      return {0, 'other_at_version', head[2]}
    end
    if version <= head_version then
      return {1, 0}
    end
  elseif parent ~= head_version then
    return {0, 'stale_parent', head_version}
  end
  if redis.call('SETNX', key('manifest', digest), envelope) == 1 then
    redis.call('RPUSH', key('manifests'), digest)
  end
  redis.call('HSET', key('versions', expert), version, digest)
  redis.call('HSET', key('expert', expert), 'version', version, 'manifest', digest)
  redis.call('SADD', key('experts'), expert)
  event(kind, 'f:expert', expert, 'f:version', version, 'f:manifest', digest, 'f:owner', owner)
  moved = 1
end
if idempotency ~= '' then
  redis.call('SET', done, digest, 'EX', memory_s)
end
return {1, moved}
