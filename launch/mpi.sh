#!/usr/bin/env bash
# Pre-trains under mpirun (Open MPI or MPICH): RANKS processes on this machine or on the hosts of HOSTFILE.
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes over all hosts
HOSTFILE="${HOSTFILE:-}"                 # one host a line; empty: this machine
RECIPE="${RECIPE:-recipes/large.yaml}"   # what to train
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed
MPIRUN="${MPIRUN:-$(dirname "$PYTHON")/mpirun}"  # the one that pip installed, or your cluster's
MASTER_PORT="${MASTER_PORT:-$((20000 + $$ % 20000))}"

cd "$(dirname "$0")/.."
[ -x "$MPIRUN" ] || MPIRUN=mpirun
options=(-n "$RANKS")
[ -z "$HOSTFILE" ] || options+=(--hostfile "$HOSTFILE")
# MPI tells its ranks no address: the first host of the file is where rank 0 runs.
if [ -n "$HOSTFILE" ]; then
    MASTER_ADDR="${MASTER_ADDR:-$(awk '!/^#/ && NF { print $1; exit }' "$HOSTFILE")}"
fi
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) / RANKS > 0 ? $(nproc) / RANKS : 1 ))}"
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
if "$MPIRUN" --version 2>/dev/null | grep -q 'Open MPI\|PRRTE\|OpenRTE'; then
    options+=(--oversubscribe --bind-to none -x MASTER_ADDR -x MASTER_PORT -x OMP_NUM_THREADS)
    [ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
fi
# shellcheck disable=SC2086 # EXTRA is several words on purpose
exec "$MPIRUN" "${options[@]}" "$PYTHON" -m jadeberta pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} $EXTRA "$@"
