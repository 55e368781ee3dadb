#!/usr/bin/env bash
# Makes shards of raw corpora:  sbatch --export=ALL,CORPORA=/data/corpora,OUT=/data/shards slurm/shards.sh
# Over more nodes by MPI:       sbatch --nodes=4 --export=... slurm/shards.sh
# Without MPI, as an array whose tasks need not run at the same time:  sbatch --array=0-7 --export=... slurm/shards.sh
# Requeued, or submitted again after a time limit or a crash, it does only what is unfinished.
#SBATCH --job-name=jadeberta-shards
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=64
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail
[ -n "${SLURM_JOB_ID:-}" ] || { echo "slurm/shards.sh is the script of a Slurm job: submit it with 'sbatch slurm/shards.sh'. Without Slurm use 'make shards'." >&2; exit 2; }

# --- Settings: edit here or give them with --export -------------------------------------------------------------
RECIPE="${RECIPE:-recipes/large.yaml}"   # its preprocess section is read
CORPORA="${CORPORA:-}"                   # folder with the corpora; empty: the paths in the recipe
OUT="${OUT:-shards}"                     # where everything is written, on a file system that all nodes see
EXTRA="${EXTRA:-}"                       # more options, e.g. "--preprocess.segmenter.command /opt/jumanpp/bin/jumanpp"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes
MPI="${MPI:-pmix}"                       # as `srun --mpi=list` names it; none: files under OUT instead of MPI, as in an array
# module load openmpi                    # the MPI library that mpi4py shall use
# -----------------------------------------------------------------------------------------------------------------

cd "$SLURM_SUBMIT_DIR"
. slurm/cpus.sh
read -d '' -ra extra <<<"$EXTRA" || :
stages=(all --config "$RECIPE" --out "$OUT" ${CORPORA:+--corpora "$CORPORA"} "${extra[@]}")
if [ "$MPI" != none ] && [ -z "${SLURM_ARRAY_JOB_ID:-}" ]; then
    srun --export=ALL --mpi="$MPI" --kill-on-bad-exit=1 "$PYTHON" -m preprocess "${stages[@]}"
    exec "$PYTHON" -m preprocess verify "$OUT"
fi

# All tasks of the job, or of all jobs of the array, are one pool. A task that dies leaves its work to the others, and still makes srun
# fail. So srun's status does not count; verify decides whether the stages are finished. One job of the array verifies for all.
pool="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
status=0
srun --export=ALL --mpi=none --kill-on-bad-exit=0 "$PYTHON" -m preprocess "${stages[@]}" --pool "$pool" || status=$?
"$PYTHON" -m preprocess verify "$OUT" --pool "$pool" || exit "$((status > 0 ? status : 1))"
