#!/usr/bin/env bash
# Pre-trains under torchrun: RANKS processes on each of NODES machines. Run it once on each machine, on Slurm by
#   srun --ntasks-per-node=1 launch/torchrun.sh
# which needs no further setting.
set -euo pipefail

RANKS="${RANKS:-1}"                      # processes on this machine
NODES="${NODES:-${SLURM_STEP_NUM_NODES:-1}}"  # machines; min:max makes the job elastic: it goes on while min are there
NODE_RANK="${NODE_RANK:-}"               # this machine's number, from 0; empty: the machines number themselves (c10d)
RDZV_ENDPOINT="${RDZV_ENDPOINT:-}"       # host:port of the first machine where NODES is not 1; empty: Slurm's first node
RESTARTS="${RESTARTS:-0}"                # most restarts of all processes after one has died; each goes on from the newest checkpoint
RECIPE="${RECIPE:-}"                     # what to train; empty: recipes/large.yaml of the project
RUN_DIR="${RUN_DIR:-}"                   # run directory; empty: the recipe's
SHARDS="${SHARDS:-}"                     # directory with index.json; empty: the recipe's
EXTRA="${EXTRA:-}"                       # more options, e.g. "--training.max_steps 100"
PYTHON="${PYTHON:-}"                     # interpreter with jadeberta installed; empty: .venv/bin/python of the project

[[ $RANKS =~ ^[1-9][0-9]*$ ]] || { echo "RANKS=$RANKS: give a whole number of processes, at least 1." >&2; exit 2; }
[[ $NODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || { echo "NODES=$NODES: give a whole number of machines, or min:max." >&2; exit 2; }
[ "$RESTARTS" = 0 ] || [ -z "$NODE_RANK" ] || { echo "RESTARTS=$RESTARTS needs machines that number themselves: unset NODE_RANK." >&2; exit 2; }
# shellcheck source=launch/paths.sh
. "$(dirname "$0")/paths.sh"
# torch 2.13 would keep one store over all restarts, in which the processes find the addresses of dead ones.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) / RANKS > 0 ? $(nproc) / RANKS : 1 ))}"
if [ -z "$RDZV_ENDPOINT" ] && [ -n "${SLURM_STEP_NODELIST:-}" ]; then
    hosts="$(scontrol show hostnames "$SLURM_STEP_NODELIST")"
    RDZV_ENDPOINT="${hosts%%$'\n'*}:$((15000 + (SLURM_JOB_ID + 4099 * ${SLURM_STEP_ID:-0}) % 17000))"
fi
if [ "$NODES" = 1 ]; then
    options=(--standalone)
elif [ -z "$RDZV_ENDPOINT" ]; then
    echo "NODES=$NODES: set RDZV_ENDPOINT=host:port of the first machine, the same on all." >&2
    exit 2
elif [ -n "$NODE_RANK" ]; then
    options=(--node_rank "$NODE_RANK" --master_addr "${RDZV_ENDPOINT%:*}" --master_port "${RDZV_ENDPOINT##*:}")
else
    options=(--rdzv_backend c10d --rdzv_id "jadeberta-${SLURM_JOB_ID:-0}-${SLURM_STEP_ID:-0}" --rdzv_endpoint "$RDZV_ENDPOINT")
fi
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc_per_node "$RANKS" --max_restarts "$RESTARTS" "${options[@]}" \
    --signals_to_handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m jadeberta pretrain --config "$RECIPE" \
    ${RUN_DIR:+--run.dir "$RUN_DIR"} ${SHARDS:+--data.shards "$SHARDS"} "${extra[@]}" "$@"
