#!/bin/sh
# Found the swarm once, and give each service its own part: nobody but the coordinator gets the CA.
# The coordinator's identity comes last and at once: it says that all parts are there, from one founding.
set -eu
parts=${SWARM_PARTS:-/parts}
under_way=$parts/coordinator/.founding

held_by() {
  find "$parts/$1" -mindepth 1 -maxdepth 1 ! -name lost+found ! -path "$under_way"
}

if [ -e "$parts/coordinator/identity/identity.json" ]; then
  rm -rf "$under_way"
  echo "the swarm was founded before"
  exit 0
fi
for part in registry operator ca coordinator; do
  if [ ! -d "$under_way" ] && [ -n "$(held_by "$part")" ]; then
    echo "part $part: found files, but no identity in the coordinator's part and no founding under way;" \
      "expected empty parts; restore the coordinator's volume, or remove all volumes: docker compose down -v" >&2
    exit 6
  fi
done
mkdir -p "$under_way"
# What a founding left that was cut short goes: its CA is not that of the next one.
for part in registry operator ca coordinator; do
  held_by "$part" | while IFS= read -r left; do rm -rf "$left"; done
done
rm -rf "$under_way/identity"
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
swarm init "$SWARM_NAME" --home "$home" --data "$SWARM_SAMPLE" --import-path /opt/examples \
  --host coordinator --registry-host registry
cp -a "$home/coordinator/identity" "$under_way/identity"
rm -rf "$home/coordinator/identity"
cp -a "$home/registry/." "$parts/registry/"
cp -a "$home/operator/." "$parts/operator/"
cp -a "$home/ca/." "$parts/ca/"
cp -a "$home/coordinator/." "$parts/coordinator/"
sync
mv "$under_way/identity" "$parts/coordinator/identity"
rm -rf "$under_way"
