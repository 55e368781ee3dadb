#!/usr/bin/env bash
# Pre-trains on this machine with nothing but Python: RANKS processes, one a GPU where there are GPUs.
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes
RESTARTS="${RESTARTS:-0}"                # most times that the job is started again after a kill, a hang or a requeue
RECIPE="${RECIPE:-}"                     # what to train; empty: recipes/large.yaml of the project
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-}"                     # interpreter with jadeberta installed; empty: .venv/bin/python of the project

[[ $RANKS =~ ^[1-9][0-9]*$ ]] || { echo "RANKS=$RANKS: give a whole number of processes, at least 1." >&2; exit 2; }
# shellcheck source=launch/paths.sh
. "$(dirname "$0")/paths.sh"
exec "$PYTHON" -m jadeberta.jobs.local_launcher --ranks "$RANKS" --restarts "$RESTARTS" -- pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} "${extra[@]}" "$@"
