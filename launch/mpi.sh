#!/usr/bin/env bash
# Pre-trains under mpirun (Open MPI or MPICH): RANKS processes on this machine, on the hosts of HOSTFILE, or, called by a job script of
# Slurm, on the job's nodes. MPI only starts the processes; they meet at MASTER_ADDR.
set -euo pipefail

RANKS="${RANKS:-${SLURM_NTASKS:-1}}"     # processes over all hosts; in a job of Slurm as many as its tasks
HOSTFILE="${HOSTFILE:-}"                 # one host a line, as mpirun wants it; empty: Slurm's nodes, or this machine
RECIPE="${RECIPE:-}"                     # what to train; empty: recipes/large.yaml of the project
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-}"                     # interpreter with jadeberta installed; empty: .venv/bin/python of the project
MPIRUN="${MPIRUN:-}"                     # your cluster's mpirun; empty: the one that pip installed, or the first on PATH
MPIRUN_EXTRA="${MPIRUN_EXTRA:-}"         # more options of mpirun, e.g. "--map-by ppr:8:node"
MASTER_ADDR="${MASTER_ADDR:-}"           # host of rank 0; empty: the first of HOSTFILE or of Slurm's nodes, or this machine
MASTER_PORT="${MASTER_PORT:-$((15000 + (${SLURM_JOB_ID:-0} + $$) % 17000))}"   # a port that is free there

[[ $RANKS =~ ^[1-9][0-9]*$ ]] || { echo "RANKS=$RANKS: give a whole number of processes, at least 1." >&2; exit 2; }
# shellcheck source=launch/paths.sh
. "$(dirname "$0")/paths.sh"
if [ -z "$MPIRUN" ]; then
    MPIRUN="$(dirname "$PYTHON")/mpirun"
    [ -x "$MPIRUN" ] || MPIRUN=mpirun
fi
command -v "$MPIRUN" >/dev/null || { echo "MPIRUN=$MPIRUN: no such program; name your cluster's mpirun." >&2; exit 2; }
options=(-n "$RANKS")
if [ -n "$HOSTFILE" ]; then
    options+=(--hostfile "$HOSTFILE")
    first="$(awk -F '[ \t:]+' '!/^#/ && NF { print $1; exit }' "$HOSTFILE")"
elif [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
    first="${hosts%%$'\n'*}"
fi
MASTER_ADDR="${MASTER_ADDR:-${first:-127.0.0.1}}"
OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-$(( $(nproc) / RANKS > 0 ? $(nproc) / RANKS : 1 ))}}"
JADEBERTA_LAUNCH="$HOSTNAME-$$-$RANDOM"    # ranks of another launch that find this address are refused
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS JADEBERTA_LAUNCH
mpirun=("$MPIRUN")
if "$MPIRUN" --version 2>/dev/null | grep -q 'Open MPI\|PRRTE\|OpenRTE'; then
    mpirun=("$PYTHON" -m jadeberta.jobs.launcher_output -- "$MPIRUN") # which leaves out its block of words after a rank's own error
    options+=(--oversubscribe --bind-to none -x MASTER_ADDR -x MASTER_PORT -x JADEBERTA_LAUNCH -x OMP_NUM_THREADS -x PYTHONPATH -x PYTHONSAFEPATH)
    [ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
fi
read -d '' -ra mpirun_extra <<<"$MPIRUN_EXTRA" || :
# Open MPI's mpirun forwards USR1, but at TERM it kills the ranks before they have saved.
# shellcheck source=launch/forward_signals.sh
. "$ROOT/launch/forward_signals.sh"
wait_and_forward USR1 command "${mpirun[@]}" "${options[@]}" "${mpirun_extra[@]}" "$PYTHON" -m jadeberta pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} "${extra[@]}" "$@"
