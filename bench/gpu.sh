#!/usr/bin/env bash
# Everything that wants a GPU, in one command and under 8 minutes: is the model right on it, and how fast are the steps?
# Usage: bench/gpu.sh [folder for the results, bench/results]. Writes step-NAME-DATE.json and .svg, and correct-NAME-DATE.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-bench/results}"
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$out"
name="$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower() if torch.cuda.is_available() else "")')"
if [ -z "$name" ]; then
    echo "bench/gpu.sh: torch sees no GPU here" >&2
    exit 2
fi
stamp="$name-$(date +%Y-%m-%d)"
status=0
timeout 150 "$python" bench/steps/correct.py | tee "$out/correct-$stamp.txt" || status=$?
timeout 300 "$python" bench/step.py --parts time --size large --dtype bfloat16 --batch "${BATCH:-32}" --rounds 12 --warm-up 4 \
    --output "$out/step-$stamp.json" || status=$?
exit "$status"
