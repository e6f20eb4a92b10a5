-- ARGV: commit | restore, expert, owner, version, parent version, digest, envelope, fence or '', idempotency
-- key, seconds that the key is remembered. Returns {1, 1 if the head moved else 0}.
local act, expert, owner = ARGV[1], ARGV[2], ARGV[3]
local version, parent, digest, envelope = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
local fence, idempotency, memory_s = ARGV[8], ARGV[9], ARGV[10]
local done = key('key', 'commit', owner, idempotency)

local known = redis.call('MGET', done, key('fence', owner), key('manifest', digest))
if idempotency ~= '' and known[1] then
  if known[1] ~= digest then
    return {0, 'key_reused'}
  end
  return {1, 0}
end

local withdrawn = redis.call('HMGET', key('tombstones'), expert, owner)
if withdrawn[1] or withdrawn[2] then
  return {0, 'withdrawn', withdrawn[1] and expert or owner}
end

local head = redis.call('HMGET', key('expert', expert), 'version', 'manifest')
local head_version = number(head[1])
local moved = 0
if act == 'restore' or not known[3] then
  if fence ~= '' then
    local newest = number(known[2])
    if newest == 0 or newest ~= tonumber(fence) then
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
  if not known[3] then
    redis.call('SET', key('manifest', digest), envelope)
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
