# Sourced by the other scripts of this folder. Turns CONTAINER, BINDS and PYTHON into two arrays: `step`, an srun to which a command is
# appended, and `python`, the interpreter with which the command begins.
# --export=ALL: the steps of a job that was submitted with --export=NONE would have no PATH.
# shellcheck shell=bash disable=SC2034 # both are used by the caller
. slurm/cpus.sh
step=(srun --export=ALL)
python=("$PYTHON")
case "$CONTAINER" in
    "") ;;
    apptainer:*) python=(apptainer exec --nv ${BINDS:+--bind "$BINDS"} "${CONTAINER#apptainer:}" "$PYTHON") ;;
    pyxis:*) step+=(--container-image="${CONTAINER#pyxis:}" --container-workdir="$PWD" --container-mounts="$PWD:$PWD${BINDS:+,$BINDS}") ;;
    *) echo "CONTAINER=$CONTAINER: give apptainer:IMAGE or pyxis:IMAGE" >&2; exit 2 ;;
esac
# sbatch's --gres changes the GPUs of the job and leaves the variable by which every srun asks for the script's number of them.
if [ -n "${SLURM_GPUS_PER_NODE:-}" ] && [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ "$SLURM_GPUS_PER_NODE" != "$SLURM_GPUS_ON_NODE" ]; then
    ask=("${python[@]}" -m jadeberta.jobs.gpu_request)
    for name in SLURM_GPUS_PER_NODE SLURM_GPUS_ON_NODE SLURM_NTASKS_PER_NODE SLURM_NTASKS SLURM_JOB_NUM_NODES; do
        ask+=("$name=${!name:-}")
    done
    [ "${CONTAINER%%:*}" != pyxis ] || ask=(env -u SLURM_GPUS_PER_NODE "${step[@]}" --nodes=1 --ntasks=1 "${ask[@]}")
    gpus="$("${ask[@]}")" || exit 2
    [ -z "$gpus" ] || export SLURM_GPUS_PER_NODE="$gpus"
    unset ask gpus name
fi
