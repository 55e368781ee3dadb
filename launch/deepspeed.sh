#!/usr/bin/env bash
# Pre-trains under DeepSpeed's launcher: RANKS processes on this machine, or on the hosts of HOSTFILE (reached by ssh).
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes on each machine
HOSTFILE="${HOSTFILE:-}"                 # lines "host slots=8"; empty: this machine
RECIPE="${RECIPE:-recipes/large.yaml}"   # what to train
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed
MASTER_PORT="${MASTER_PORT:-$((20000 + $$ % 20000))}"

cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) / RANKS > 0 ? $(nproc) / RANKS : 1 ))}"
options=(--master_port "$MASTER_PORT" --no_local_rank --module)
if [ -n "$HOSTFILE" ]; then
    options+=(--hostfile "$HOSTFILE")
else
    options+=(--num_gpus "$RANKS" --hostfile /nonexistent)
fi
if ! command -v nvidia-smi >/dev/null; then
    export DS_ACCELERATOR=cpu
fi
# shellcheck disable=SC2086 # EXTRA is several words on purpose
exec "$PYTHON" -m deepspeed.launcher.runner "${options[@]}" jadeberta pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} $EXTRA "$@"
