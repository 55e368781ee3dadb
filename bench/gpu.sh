#!/usr/bin/env bash
# Everything that wants a GPU, in one command and under 8 minutes: tiles are tuned first, for all that follows takes them; then whether the
# kernels and the model are right, how fast attention and steps are, whether the kernels train like eager, and what the sanitizer sees.
# Usage: bench/gpu.sh [folder for the results, bench/results]. Writes tiles-, kernels-, attention-, step-, correct-, parity- and
# sanitizer-NAME-DATE there. A part that fails or runs out of its time leaves the others alone; the first failure is the exit status.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out="${1:-bench/results}"
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$out"
name="$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-").lower() if torch.cuda.is_available() else "")')"
if [ -z "$name" ]; then
    echo "bench/gpu.sh: torch sees no GPU here" >&2
    exit 2
fi
if ! "$python" -c 'import triton' 2>/dev/null; then
    echo "bench/gpu.sh: Triton is missing; install torch's CUDA build, which brings it, not the CPU build" >&2
    exit 2
fi
stamp="$name-$(date +%Y-%m-%d)"
status=0

# part SECONDS NAME COMMAND...: runs it, shows what it prints and keeps it in NAME-STAMP.txt.
part() {
    local seconds="$1" what="$2" code=0
    shift 2
    echo "== $what, at most $seconds s"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$what-$stamp.txt"
    code="${PIPESTATUS[0]}"
    if [ "$code" != 0 ]; then
        echo "== $what ended with status $code" >&2
        [ "$status" != 0 ] || status="$code"
    fi
}

part 80 tiles "$python" -m jadeberta.model.attention.triton.tune --seconds 50
cp jadeberta/model/attention/triton/tiles.json "$out/tiles-$stamp.json"
part 40 kernels "$python" bench/kernels/check_kernels.py
part 50 attention "$python" bench/attention.py --batch "${BATCH:-32}" --output "$out/attention-$stamp.json"
part 150 step "$python" bench/step.py --parts time --brief --size large --dtype bfloat16 --batch "${BATCH:-32}" --rounds 8 --warm-up 3 \
    --seconds 115 --output "$out/step-$stamp.json"
part 35 parity "$python" bench/kernels/loss_parity.py
part 55 correct "$python" bench/steps/check_step.py
# Every allocation by itself, or a read beyond a tensor would land in its neighbour unseen.
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        part 33 "sanitizer-$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" \
            --report-api-errors no --error-exitcode 1 \
            "$python" bench/kernels/check_kernels.py --small
    done
else
    echo "compute-sanitizer is not in PATH: memory and races were not checked" | tee "$out/sanitizer-$stamp.txt"
fi
exit "$status"
