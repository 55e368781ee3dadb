#!/usr/bin/env bash
# Fine-tunes a model on a task of JGLUE on one GPU, one setting of the grid after the other:
#     TASK=jnli MODEL=/data/release DATA=/data/JGLUE/datasets sbatch slurm/finetune_jglue.sh
# Or all at the same time, as an array with one task per point (6 settings times the seeds):
#     TASK=jnli MODEL=/data/release DATA=/data/JGLUE/datasets sbatch --array=0-5 slurm/finetune_jglue.sh
# Requeued, or submitted again after a time limit or a crash, it trains only the points that are missing.
#SBATCH --job-name=jadeberta-finetune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
##SBATCH --partition=gpu
##SBATCH --account=me
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/finetune_jglue.sh is the script of a Slurm job: submit it with 'sbatch slurm/finetune_jglue.sh'. Without Slurm use 'jadeberta finetune'." >&2; exit 2; }

# --- Settings: edit here, or set them before sbatch (its --export would cut values at a comma) ----------------------
TASK="${TASK:-jsts}"                     # jsts, jnli, jsquad, jcommonsenseqa, jcola or marc-ja
MODEL="${MODEL:-release}"                # exported directory, checkpoint or run
DATA="${DATA:-JGLUE/datasets}"           # the folder 'datasets' of JGLUE's repository
OUT="${OUT:-runs/finetune/$TASK}"        # results, on a file system that all nodes see; one for each task and model
WHICH="${WHICH:---grid}"                 # --grid, or settings such as "--setting 3e-5,4 --setting 5e-5,3"
SEEDS="${SEEDS:-42}"                     # each setting is trained once per seed, e.g. 42,43,44
EXTRA="${EXTRA:-}"                       # more options, e.g. "--micro-batch-size 8 --precision bf16"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes or in the container
CONTAINER="${CONTAINER:-}"               # apptainer:IMAGE or pyxis:IMAGE; empty: none
BINDS="${BINDS:-}"                       # directories that the container sees besides the checkout, e.g. /data:/data
# module load cuda                       # what your cluster needs before Python runs
# -------------------------------------------------------------------------------------------------------------------

cd "${JADEBERTA:-$SLURM_SUBMIT_DIR}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
. slurm/container.sh
read -d '' -ra which <<<"$WHICH" || :
read -d '' -ra extra <<<"$EXTRA" || :
options=(--task "$TASK" --model "$MODEL" --data "$DATA" --out "$OUT" --seeds "$SEEDS" "${which[@]}" "${extra[@]}")
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    options+=(--point "$SLURM_ARRAY_TASK_ID" --pool "$SLURM_ARRAY_JOB_ID")
fi
exec "${step[@]}" --kill-on-bad-exit=1 "${python[@]}" -m jadeberta finetune "${options[@]}"
