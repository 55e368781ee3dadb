#!/usr/bin/env bash
# Pre-trains Japanese DeBERTa V2 base:  sbatch slurm/pretrain_base.sh
# The settings are those of slurm/pretrain_large.sh, which does the work.
#SBATCH --job-name=jadeberta-base
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/pretrain_base.sh is the script of a Slurm job: submit it with 'sbatch slurm/pretrain_base.sh'. Without Slurm use launch/local.sh." >&2; exit 2; }

export RECIPE="${RECIPE:-recipes/base.yaml}"   # what to train
export RUN_DIR="${RUN_DIR:-runs/base}"         # run directory, on a file system that all nodes see
cd "${JADEBERTA:-$SLURM_SUBMIT_DIR}"
exec bash slurm/pretrain_large.sh
