#!/usr/bin/env bash
# Pre-trains Japanese DeBERTa V2 large:  sbatch slurm/pretrain_large.sh
# Or with changes:  sbatch --nodes=4 --export=ALL,SHARDS=/data/shards,RUN_DIR=/data/runs/large slurm/pretrain_large.sh
# Submit it from the checkout. docs/cluster.md says what happens then.
#SBATCH --job-name=jadeberta-large
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
##SBATCH --partition=gpu
##SBATCH --account=me
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/pretrain_large.sh is the script of a Slurm job: submit it with 'sbatch slurm/pretrain_large.sh'. Without Slurm use launch/local.sh." >&2; exit 2; }

# --- Settings: edit here (and the lines above), or give them with --export -----------------------------------------
RECIPE="${RECIPE:-recipes/large.yaml}"   # what to train
RUN_DIR="${RUN_DIR:-runs/large}"         # run directory, on a file system that all nodes see
SHARDS="${SHARDS:-shards}"               # directory with index.json, likewise
EXTRA="${EXTRA:-}"                       # more options, e.g. "--checkpoint.every_steps 500"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes or in the container
CONTAINER="${CONTAINER:-}"               # apptainer:IMAGE or pyxis:IMAGE; empty: none
BINDS="${BINDS:-}"                       # directories that the container sees besides the checkout, e.g. /data:/data
PREFLIGHT="${PREFLIGHT:-yes}"            # yes | no: check hosts, links and disks first, which takes a minute
NEXT="${NEXT:-requeue}"                  # how the next attempt starts: requeue | singleton (the next job of this name in the queue) | none
REPORT="${REPORT:-3600}"                 # seconds between two writes of RUN_DIR/report.html; 0: never
# module load cuda                       # what your cluster needs before Python runs
# -------------------------------------------------------------------------------------------------------------------

export RECIPE RUN_DIR SHARDS EXTRA PYTHON CONTAINER BINDS PREFLIGHT NEXT REPORT
cd "${JADEBERTA:-$SLURM_SUBMIT_DIR}"
[ -f slurm/attempt.sh ] || { echo "$PWD is no checkout of jadeberta: submit from there, or set JADEBERTA" >&2; exit 2; }
exec bash slurm/attempt.sh
