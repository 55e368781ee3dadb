#!/usr/bin/env bash
# Makes shards of raw corpora over MPI:  sbatch --export=ALL,CORPORA=/data/corpora,OUT=/data/shards slurm/shards.sh
# Submit it again after a time limit or a crash: only unfinished pieces are done again.
#SBATCH --job-name=jadeberta-shards
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=64
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
set -euo pipefail

# --- Settings: edit here or give them with --export -------------------------------------------------------------
RECIPE="${RECIPE:-recipes/large.yaml}"   # its preprocess section is read
CORPORA="${CORPORA:-}"                   # folder with the corpora; empty: the paths in the recipe
OUT="${OUT:-shards}"                     # where everything is written, on a file system that all nodes see
EXTRA="${EXTRA:-}"                       # more options, e.g. "--preprocess.segmenter.command /opt/jumanpp/bin/jumanpp"
PYTHON="${PYTHON:-.venv/bin/python}"     # interpreter with jadeberta installed, on all nodes
MPI="${MPI:-pmix}"                       # as `srun --mpi=list` names it
# module load openmpi                    # the MPI library that mpi4py shall use
# -----------------------------------------------------------------------------------------------------------------

cd "$SLURM_SUBMIT_DIR"
# shellcheck disable=SC2086 # EXTRA is several words on purpose
srun --export=ALL --mpi="$MPI" --kill-on-bad-exit=1 "$PYTHON" -m preprocess all --config "$RECIPE" --out "$OUT" \
    ${CORPORA:+--corpora "$CORPORA"} $EXTRA
"$PYTHON" -m preprocess verify "$OUT"
