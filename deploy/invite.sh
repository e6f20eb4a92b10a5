#!/bin/sh
# Put a one-use join line into the invitation folder of each node that has none yet, and a new one in place of a
# line that is worth nothing any more (expired, used, revoked) where no node of that name has joined.
set -eu
folder=${SWARM_INVITATIONS:-/invitations}
usable=$(swarm token list --json | python -c '
import json, sys, time
found = json.load(sys.stdin)["tokens"]
print(*(each["id"] for each in found if each["uses_left"] > 0 and each["expires_at"] > time.time()))')
joined=$(swarm status --json | python -c '
import json, sys
print(*(each["id"] for each in json.load(sys.stdin)["swarm"]["nodes"]))')
for name in "$@"; do
  line=$folder/$name/line
  if [ -s "$line" ]; then
    token=$(cat "$line")
    token=${token#*.}
    case " $usable " in *" ${token%%.*} "*) continue ;; esac
    case " $joined " in *" $name "*) continue ;; esac
  fi
  said=$(swarm token create)
  printf '%s\n' "${said#swarm join }" > "$line.new"
  mv "$line.new" "$line"
done
