#!/usr/bin/env bash
# The GPU measurements in one go, ten minutes at most: parity and the tests marked gpu, then a random Qwen2.5-VL-7B of true shape.
# Usage: benchmarks/gpu.sh [FOLDER for gpu.json and the log]; PYTHON names the interpreter that has torch with CUDA.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${1:-benchmarks}"
mkdir -p "$out"
export PIP_NO_INDEX=1 UV_OFFLINE=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" SAFESTEER_CACHE="${SAFESTEER_CACHE:-$(mktemp -d)}"
timeout 540 "${PYTHON:-python3}" benchmarks/gpu.py --out "$out/gpu.json" "${@:2}" 2>&1 | tee "$out/gpu.log"
