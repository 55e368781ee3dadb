#!/usr/bin/env bash
# The runs of a race as a job array, one run a task, each resumed and requeued as slurm/pretrain_large.sh does it:
#     jadeberta race plan races/large.yaml --out /data/race --data.shards /data/shards     # prints how many runs there are
#     RACE=/data/race STAGE=tune sbatch --array=0-11 slurm/race.sh                          # chooses each contestant's settings
#     RACE=/data/race STAGE=final sbatch --array=0-23 slurm/race.sh                         # the runs of the test, once those are done
#     jadeberta race report /data/race
# Submitted again it does what is missing. docs/race.md shows a race.
#SBATCH --job-name=jadeberta-race
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
##SBATCH --partition=gpu
##SBATCH --account=me
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/race.sh is the script of a Slurm job: submit it with 'sbatch slurm/race.sh'. Without Slurm use 'jadeberta race run'." >&2; exit 2; }

# --- Settings: edit here, or set them before sbatch (its --export would cut values at a comma) ----------------------
RACE="${RACE:-race}"                     # directory that 'jadeberta race plan' has made, on a file system that all nodes see
STAGE="${STAGE:-tune}"                   # tune or final
NUMBER="${NUMBER:-${SLURM_ARRAY_TASK_ID:-0}}" # number of the run in the stage
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes or in the container
CONTAINER="${CONTAINER:-}"               # apptainer:IMAGE or pyxis:IMAGE; empty: none
BINDS="${BINDS:-}"                       # directories that the container sees besides the checkout, e.g. /data:/data
# module load cuda                       # what your cluster needs before Python runs
# -------------------------------------------------------------------------------------------------------------------

cd "${JADEBERTA:-$SLURM_SUBMIT_DIR}"
. slurm/container.sh
task=("${python[@]}" -m jadeberta race task "$RACE" --stage "$STAGE" --number "$NUMBER")
[ "${CONTAINER%%:*}" != pyxis ] || task=("${step[@]}" --nodes=1 --ntasks=1 "${task[@]}")
settings="$("${task[@]}")" || exit 2
eval "$settings" # RECIPE, RUN_DIR and SHARDS, quoted for a shell
export RECIPE RUN_DIR SHARDS PYTHON CONTAINER BINDS

# The job sends its signals to this script alone; the attempt saves and requeues.
child=""
trap '[ -z "$child" ] || kill -USR1 "$child"' USR1
trap '[ -z "$child" ] || kill -TERM "$child"' TERM
bash slurm/pretrain_large.sh &
child=$!
status=0
wait "$child" || status=$?
while kill -0 "$child" 2>/dev/null; do # a signal ends `wait` early
    status=0
    wait "$child" || status=$?
done
child=""
[ "$status" = 0 ] || [ "$status" = 13 ] || exit "$status" # 13: the numbers cannot be trusted, which is a result
exec "${step[@]}" --nodes=1 --ntasks=1 "${python[@]}" -m jadeberta race task "$RACE" --stage "$STAGE" --number "$NUMBER" --ended "$status"
