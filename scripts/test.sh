#!/usr/bin/env bash
# Install what the tests need and run everything: lint, format, types, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh test
# a browser, to see the page of `hfsynth view`; where there is none and it can't be installed, these tests are skipped
if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { apt-get -qq update; apt-get -qq install -y --no-install-recommends chromium; } > /dev/null
fi
bin=.venv/bin
$bin/ruff check .
$bin/ruff format --check .
$bin/mypy
# two test files at a time, since many tests wait for their own processes; in the order of tests/conftest.py
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
# many tests start processes that import this tree: the first one saves the compiled modules for the others
unset PYTHONDONTWRITEBYTECODE
$bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
