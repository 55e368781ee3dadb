# Sourced by the scripts beside it: makes of CONTAINER, BINDS and PYTHON the arrays `step`, an srun to add a command to, and `python`, the
# interpreter that the command begins with. --export=ALL because a job submitted with --export=NONE would give its steps no PATH.
# shellcheck shell=bash disable=SC2034 # both are used by the caller
step=(srun --export=ALL)
python=("$PYTHON")
case "$CONTAINER" in
    "") ;;
    apptainer:*) python=(apptainer exec --nv ${BINDS:+--bind "$BINDS"} "${CONTAINER#apptainer:}" "$PYTHON") ;;
    pyxis:*) step+=(--container-image="${CONTAINER#pyxis:}" --container-workdir="$PWD" --container-mounts="$PWD:$PWD${BINDS:+,$BINDS}") ;;
    *) echo "CONTAINER=$CONTAINER: give apptainer:IMAGE or pyxis:IMAGE" >&2; exit 2 ;;
esac
