#!/bin/sh
# Found the swarm once, and give each service its own part: nobody but the coordinator gets the CA.
set -eu
if [ -e /parts/coordinator/identity/identity.json ]; then
  echo "the swarm was founded before"
  exit 0
fi
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
swarm init "$SWARM_NAME" --home "$home" --data "$SWARM_SAMPLE" --import-path /opt/examples \
  --host coordinator --registry-host registry
# The coordinator's part comes last: it says that the others are there.
cp -a "$home/registry/." /parts/registry/
cp -a "$home/operator/." /parts/operator/
cp -a "$home/ca/." /parts/ca/
cp -a "$home/coordinator" /parts/coordinator/.founding
mv /parts/coordinator/.founding/* /parts/coordinator/
rmdir /parts/coordinator/.founding
