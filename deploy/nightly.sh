#!/usr/bin/env bash
# Train on the log, judge, export, switch, and make lists for everyone. A run that was
# ended by SIGTERM goes on where it was: the same command in the same folder.
#   HOME_OF_SHOP=/srv LOG=/srv/events deploy/nightly.sh
set -euo pipefail
shop=${HOME_OF_SHOP:-/srv}
log=${LOG:-$shop/events}
night=${NIGHT:-$(date -u +%F)}
deploy=$(cd "$(dirname "$0")" && pwd)
cd "$shop"

[ -e "runs/$night/metrics.json" ] ||
  recsys-nb run --data "$log" --out "runs/$night" ${RUN_OPTIONS:-}

# the run of the model that answers now, if there is one
before=()
if [ -e models/current ]; then
  name=$(basename "$(readlink -f models/current)")
  [ ! -e "runs/$name" ] || before=(--before "runs/$name")
fi
python "$deploy/gate.py" --run "runs/$night" "${before[@]}"

[ -e "models/$night" ] || recsys-nb export --model "runs/$night" --out "models/$night"
ln -sfn "$night" models/.current
mv -T models/.current models/current

recsys-nb recommend --model "models/$night" --users all -k 20 --out "lists/$night/"
