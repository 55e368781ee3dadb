#!/usr/bin/env bash
# Checks within a minute (on GPUs within 80 s) whether an allocation is fit to train on:  sbatch --nodes=4 slurm/preflight.sh
# The same with the settings of a run:  sbatch --nodes=4 --export=ALL,SHARDS=/data/shards,RUN_DIR=/data/runs/large slurm/preflight.sh
#SBATCH --job-name=jadeberta-preflight
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=00:10:00
#SBATCH --output=%x-%j.log
#SBATCH --no-requeue
##SBATCH --partition=gpu
##SBATCH --account=me
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/preflight.sh is the script of a Slurm job: submit it with 'sbatch slurm/preflight.sh'. Without Slurm use 'jadeberta preflight'." >&2; exit 2; }

# --- Settings: edit here (and the lines above), or give them with --export -----------------------------------------
RECIPE="${RECIPE:-recipes/large.yaml}"   # what is to be trained
RUN_DIR="${RUN_DIR:-runs/large}"         # its run directory, on a file system that all nodes see
SHARDS="${SHARDS:-shards}"               # directory with index.json, likewise
EXTRA="${EXTRA:-}"                       # more options, e.g. "--siblings 0.8 --patience 60"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes or in the container
CONTAINER="${CONTAINER:-}"               # apptainer:IMAGE or pyxis:IMAGE; empty: none
BINDS="${BINDS:-}"                       # directories that the container sees besides the checkout, e.g. /data:/data
# module load cuda                       # what your cluster needs before Python runs
# -------------------------------------------------------------------------------------------------------------------

cd "${JADEBERTA:-$SLURM_SUBMIT_DIR}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
# Slurm's own variables give the ranks their numbers and address; variables left over from another launcher would contradict them.
unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT

# A rank that fails must not end the others: they find out which host is to blame, and may need their whole minute for that.
# --wait ends tasks that are left over after it, such as those on a host that Slurm cannot reach any more.
. slurm/container.sh
read -d '' -ra extra <<<"$EXTRA" || :
step+=(--kill-on-bad-exit=0 --wait=60)
"${step[@]}" "${python[@]}" -m jadeberta preflight --config "$RECIPE" --run.dir "$RUN_DIR" --data.shards "$SHARDS" "${extra[@]}"
