import subprocess
import sys

import pytest

import hfsynth


def test_importing_hfsynth_loads_neither_torch_nor_transformers_nor_datasets():
    code = "import sys, hfsynth; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_techniques_and_llms_load_neither_torch_nor_transformers():
    code = "import sys; from hfsynth import *; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_public_names_are_these():
    assert hfsynth.__all__ == [
        "LLM",
        "BootstrapInstructions",
        "ChatTemplateError",
        "ColumnError",
        "Comparison",
        "Completion",
        "Decontaminate",
        "Deduplicate",
        "Drop",
        "EchoLLM",
        "EvolInstruct",
        "Filter",
        "GenerationError",
        "InstructionFollowingDifficulty",
        "InstructionRules",
        "Judge",
        "Magpie",
        "Message",
        "Novelty",
        "Pipeline",
        "PushError",
        "Report",
        "Request",
        "Reward",
        "RewardDifference",
        "RewardModel",
        "RowError",
        "RunError",
        "RunResult",
        "RunResult",
        "SamplingParams",
        "ScriptedLLM",
        "SeedPool",
        "SelfInstruct",
        "SelfInstructInstances",
        "Technique",
        "TextGeneration",
        "TransformersLLM",
        "WellFormed",
        "Where",
        "push_to_hub",
        "report",
        "run",
        "run",
        "save",
        "split_failures",
    ]
    for name in hfsynth.__all__:
        assert getattr(hfsynth, name).__doc__
    assert set(hfsynth._HOMES) == set(hfsynth.__all__) <= set(dir(hfsynth))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Instruct'"):
        hfsynth.Instruct  # noqa: B018
