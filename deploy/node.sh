#!/bin/sh
# A node of the sample swarm: join with the invitation, run the agent, train once on the node's own samples.
set -eu
if [ ! -e "$SWARM_HOME/identity/identity.json" ]; then
  line=${SWARM_JOIN:-$(cat /invitation/line)}
  swarm join "$line" --name "$SWARM_NODE" --data "$SWARM_DATA" --import-path /opt/examples
fi
swarm node --import-path /opt/examples &
agent=$!
trap 'kill -TERM "$agent" 2>/dev/null; wait "$agent"; exit $?' TERM INT
if [ ! -e "$SWARM_HOME/state/trained" ]; then
  until swarm health node >/dev/null 2>&1; do
    kill -0 "$agent" || exit 1
    sleep 1
  done
  swarm train "$SWARM_DATA" --import-path /opt/examples && touch "$SWARM_HOME/state/trained"
fi
wait "$agent"
