#!/usr/bin/env bash
# Pre-trains under torchrun: RANKS processes on each of NODES machines; run it once on each machine.
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes on this machine
NODES="${NODES:-1}"                      # machines; min:max makes the job elastic
RDZV_ENDPOINT="${RDZV_ENDPOINT:-}"       # host:port of the first machine; needed where NODES is not 1
RECIPE="${RECIPE:-recipes/large.yaml}"   # what to train
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed

cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) / RANKS > 0 ? $(nproc) / RANKS : 1 ))}"
if [ "$NODES" = 1 ]; then
    options=(--standalone)
else
    options=(--rdzv_backend c10d --rdzv_endpoint "${RDZV_ENDPOINT:?set RDZV_ENDPOINT=host:port for several machines}")
fi
# shellcheck disable=SC2086 # EXTRA is several words on purpose
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc_per_node "$RANKS" "${options[@]}" \
    -m jadeberta pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} $EXTRA "$@"
