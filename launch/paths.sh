#!/usr/bin/env bash
# Sourced by the launchers. The one rule for every path: `~` is the home directory, and a relative path starts at the directory in which
# the user typed the command. So no launcher changes its directory; the project is found beside this file.

ROOT="$(CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RECIPE="${RECIPE:-$ROOT/recipes/large.yaml}"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
# Where a setting came through `env` or sbatch's --export no shell has expanded it. The paths of the other settings are Python's to expand.
for name in PYTHON HOSTFILE MPIRUN; do
    value="${!name:-}"
    [[ $value != \~/* ]] || printf -v "$name" '%s' "$HOME/${value#\~/}"
done
unset name value
# EXTRA is several words, maybe on several lines. `read` splits it and, unlike a bare $EXTRA, takes a * as it stands.
# shellcheck disable=SC2034 # the launchers use it
read -d '' -ra extra <<<"${EXTRA:-}" || :
# A rank ends when this script is gone, even if it is killed before the rank has begun.
JADEBERTA_SCRIPT="$HOSTNAME $(readlink /proc/self/ns/pid) $$"
export JADEBERTA_SCRIPT
# A file of the user's directory, such as random.py, must not stand for a module.
export PYTHONSAFEPATH=1 PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
