# Sourced by the other scripts of this folder. Turns CONTAINER, BINDS and PYTHON into two arrays: `step`, an srun to which a command is
# appended, and `python`, the interpreter with which the command begins.
# --export=ALL: the steps of a job that was submitted with --export=NONE would have no PATH.
# shellcheck shell=bash disable=SC2034 # both are used by the caller
step=(srun --export=ALL)
python=("$PYTHON")
case "$CONTAINER" in
    "") ;;
    apptainer:*) python=(apptainer exec --nv ${BINDS:+--bind "$BINDS"} "${CONTAINER#apptainer:}" "$PYTHON") ;;
    pyxis:*) step+=(--container-image="${CONTAINER#pyxis:}" --container-workdir="$PWD" --container-mounts="$PWD:$PWD${BINDS:+,$BINDS}") ;;
    *) echo "CONTAINER=$CONTAINER: give apptainer:IMAGE or pyxis:IMAGE" >&2; exit 2 ;;
esac
