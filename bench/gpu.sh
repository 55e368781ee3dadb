#!/usr/bin/env bash
# Everything that wants a GPU, in one command and under 8 minutes, on a bare machine too: Python, torch's CUDA build with Triton, and
# transformers are enough beside the folder of wheels that `python bench/gpu_wheels.py` fetches where there is a network.
# Usage: bench/gpu.sh [--rehearse] [--seconds 465] [--only PART]... [FOLDER, bench/results]. PYTHON names the interpreter (.venv/bin/python
# where it exists, else python3), WHEELS the folder (wheels). The wheels go into a folder that is removed at the end; nothing else changes.
set -uo pipefail
SECONDS=0 # bash counts from here, also where the environment has such a variable
export GPU_RUN_FROM="$PWD" # relative paths start where the command was typed
cd "$(dirname "$0")/.." || exit
python="${PYTHON:-}"
[[ $python != */* || $python == /* ]] || python="$GPU_RUN_FROM/$python"
if [ -z "$python" ]; then
    python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
fi
if ! command -v "$python" >/dev/null; then
    echo "bench/gpu.sh: there is no program $python; name the interpreter that has torch in PYTHON" >&2
    exit 2
fi
wheels="${WHEELS-$PWD/wheels}"
[[ -z $wheels || $wheels == /* ]] || wheels="$GPU_RUN_FROM/$wheels"
if [ -n "$wheels" ] && compgen -G "$wheels/*.whl" >/dev/null; then
    site="$(mktemp -d)" || exit
    trap 'rm -rf "$site"' EXIT
    # Without their dependencies, and behind the machine's own packages: these are not to be put in the shade by another version.
    if ! "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
        --find-links "$wheels" --target "$site/packages" "$wheels"/*.whl; then
        echo "bench/gpu.sh: pip could not install $wheels; fetch them for this Python with bench/gpu_wheels.py, or set WHEELS= to use none" >&2
        exit 2
    fi
    echo 'import os, sys; sys.path.append(os.environ["GPU_RUN_PACKAGES"])' >"$site/sitecustomize.py"
    export GPU_RUN_PACKAGES="$site/packages" PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export GPU_RUN_BEFORE_S="$SECONDS"
# Not exec: the trap has to run. Signals go on to the driver, which ends its parts.
"$python" bench/gpu_run/driver.py "$@" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null' TERM INT HUP
wait "$driver"
status=$?
while kill -0 "$driver" 2>/dev/null; do
    wait "$driver"
    status=$?
done
exit "$status"
