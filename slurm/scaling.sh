#!/usr/bin/env bash
# One point of a scaling test: preflight, then some steps, in the same allocation. `jadeberta scaling run` submits it once a point, with
# the number of nodes as an option and RECIPE, RUN_DIR and PYTHON in the environment; docs/scale.md shows how.
#SBATCH --job-name=jadeberta-scaling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --no-requeue
##SBATCH --partition=gpu
##SBATCH --account=me
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/scaling.sh is the script of a Slurm job: 'jadeberta scaling run' submits it. Without Slurm use 'jadeberta scaling run --local'." >&2; exit 2; }

# --- Settings: edit here (and the lines above), or set them before `jadeberta scaling run` -------------------------
EXTRA="${EXTRA:-}"                       # more options, e.g. "--data.workers 4"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes or in the container
CONTAINER="${CONTAINER:-}"               # apptainer:IMAGE or pyxis:IMAGE; empty: none
BINDS="${BINDS:-}"                       # directories that the container sees besides the checkout, e.g. /data:/data
# module load cuda                       # what your cluster needs before Python runs
# -------------------------------------------------------------------------------------------------------------------

cd "$SLURM_SUBMIT_DIR"
: "${RECIPE:?is set by jadeberta scaling run}" "${RUN_DIR:?is set by jadeberta scaling run}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
. slurm/container.sh
read -d '' -ra extra <<<"$EXTRA" || :
options=(--config "$RECIPE" --run.dir "$RUN_DIR" "${extra[@]}")

# A point is measured even where the preflight finds the allocation unfit: the report says so.
"${step[@]}" --kill-on-bad-exit=0 --wait=60 "${python[@]}" -m jadeberta preflight "${options[@]}" --json "$RUN_DIR/preflight.json" ||
    echo "preflight ended with status $?" >&2
"${step[@]}" --kill-on-bad-exit=1 "${python[@]}" -m jadeberta pretrain "${options[@]}"

# srun may end with status 0 after a failed launch: only DONE proves that the point is finished.
[ -f "$RUN_DIR/DONE" ] || { echo "$RUN_DIR/DONE is missing: the point is not finished" >&2; exit 1; }
