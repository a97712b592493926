#!/usr/bin/env bash
# Install what the tests need and run everything: lint, format, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh test
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
TOKENIZERS_PARALLELISM=false $bin/python -m pytest "$@"
