#!/usr/bin/env bash
# Pre-trains Japanese DeBERTa V2 large:  sbatch slurm/pretrain_large.sh
# Or with changes:  sbatch --nodes=4 --export=ALL,SHARDS=/data/shards,RUN_DIR=/data/runs/large slurm/pretrain_large.sh
#SBATCH --job-name=jadeberta-large
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
set -euo pipefail

# --- Settings: edit here or give them with --export -------------------------------------------------------------
RECIPE="${RECIPE:-recipes/large.yaml}"   # what to train
RUN_DIR="${RUN_DIR:-runs/large}"         # run directory, on a file system that all nodes see
SHARDS="${SHARDS:-shards}"               # directory with index.json, likewise
EXTRA="${EXTRA:-}"                       # more options, e.g. "--checkpoint.every_steps 500"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes
# module load cuda                       # what your cluster needs before Python runs
# -----------------------------------------------------------------------------------------------------------------

cd "$SLURM_SUBMIT_DIR"
# The batch host is the first of the list, but its name need not be an address the other nodes know: Slurm's is.
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="$((10000 + SLURM_JOB_ID % 50000))"   # several jobs on one node must not meet
OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

# USR1 comes to every task five minutes before the time limit: the run saves and ends with status 11.
# One task a GPU; a rank that ends badly takes the others with it instead of leaving them in a collective.
# shellcheck disable=SC2086 # EXTRA is several words on purpose
srun --export=ALL --kill-on-bad-exit=1 "$PYTHON" -m jadeberta pretrain --config "$RECIPE" \
    --run.dir "$RUN_DIR" --data.shards "$SHARDS" $EXTRA

# srun may end with status 0 after a failed launch: only this file says that the run is finished.
[ -f "$RUN_DIR/DONE" ] || { echo "$RUN_DIR/DONE is missing: the run is not finished" >&2; exit 1; }
