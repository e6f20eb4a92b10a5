#!/bin/sh
# A node of the sample swarm: join with the invitation, run the agent, train once on the node's own samples.
# A first training that fails is tried again, after a pause that doubles up to half an hour.
set -eu
if [ ! -e "$SWARM_HOME/identity/identity.json" ]; then
  line=${SWARM_JOIN:-$(cat "${SWARM_INVITATION:-/invitation}/line")}
  swarm join "$line" --name "$SWARM_NODE" --data "$SWARM_DATA" --import-path /opt/examples
fi
swarm node --import-path /opt/examples &
agent=$!
step=
trap 'kill -TERM $step "$agent" 2>/dev/null || :; wait "$agent"; exit $?' TERM INT

# A step runs beside the shell, which so hears a signal at once.
do_step() {
  "$@" &
  step=$!
  code=0
  wait "$step" || code=$?
  step=
  return "$code"
}

lives() {
  kill -0 "$agent" 2>/dev/null
}

if [ ! -e "$SWARM_HOME/state/trained" ]; then
  until do_step swarm health node >/dev/null 2>&1; do
    lives || break
    do_step sleep 1
  done
  pause=${SWARM_TRAIN_PAUSE_S:-30}
  while lives; do
    if do_step swarm train "$SWARM_DATA" --import-path /opt/examples; then
      touch "$SWARM_HOME/state/trained"
      break
    fi
    lives || break
    echo "first training of $SWARM_NODE: found exit code $code (why: above);" \
      "expected 0; tried again in $pause s" >&2
    do_step sleep "$pause"
    pause=$((pause * 2))
    [ "$pause" -le 1800 ] || pause=1800
  done
fi
wait "$agent"
