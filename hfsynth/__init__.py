"""Turn a Hugging Face `Dataset` into an instruction-tuning dataset, on your own machines.

Everything public is imported on first use, so that `import hfsynth` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsynth.errors import ChatTemplateError as ChatTemplateError
    from hfsynth.errors import ColumnError as ColumnError
    from hfsynth.errors import GenerationError as GenerationError
    from hfsynth.errors import PushError as PushError
    from hfsynth.errors import RowError as RowError
    from hfsynth.errors import RunError as RunError
    from hfsynth.generation import LLM as LLM
    from hfsynth.generation import Completion as Completion
    from hfsynth.generation import Message as Message
    from hfsynth.generation import Request as Request
    from hfsynth.generation import SamplingParams as SamplingParams
    from hfsynth.llms.echo import EchoLLM as EchoLLM
    from hfsynth.llms.reward import RewardModel as RewardModel
    from hfsynth.llms.transformers import TransformersLLM as TransformersLLM
    from hfsynth.pipeline import Pipeline as Pipeline
    from hfsynth.publishing.folder import save as save
    from hfsynth.publishing.hub import push_to_hub as push_to_hub
    from hfsynth.record import split_failures as split_failures
    from hfsynth.technique import Technique as Technique
    from hfsynth.techniques.evol_instruct import EvolInstruct as EvolInstruct
    from hfsynth.techniques.instruction_difficulty import (
        InstructionFollowingDifficulty as InstructionFollowingDifficulty,
    )
    from hfsynth.techniques.judge import Judge as Judge
    from hfsynth.techniques.magpie import Magpie as Magpie
    from hfsynth.techniques.reward import Reward as Reward
    from hfsynth.techniques.self_instruct import SelfInstruct as SelfInstruct
    from hfsynth.techniques.text_generation import TextGeneration as TextGeneration

__version__ = "0.1.0"

_HOMES = {
    "ChatTemplateError": "errors",
    "ColumnError": "errors",
    "Completion": "generation",
    "EchoLLM": "llms.echo",
    "EvolInstruct": "techniques.evol_instruct",
    "GenerationError": "errors",
    "InstructionFollowingDifficulty": "techniques.instruction_difficulty",
    "Judge": "techniques.judge",
    "LLM": "generation",
    "Magpie": "techniques.magpie",
    "Message": "generation",
    "Pipeline": "pipeline",
    "PushError": "errors",
    "Request": "generation",
    "Reward": "techniques.reward",
    "RewardModel": "llms.reward",
    "RowError": "errors",
    "RunError": "errors",
    "SamplingParams": "generation",
    "SelfInstruct": "techniques.self_instruct",
    "Technique": "technique",
    "TextGeneration": "techniques.text_generation",
    "TransformersLLM": "llms.transformers",
    "push_to_hub": "publishing.hub",
    "save": "publishing.folder",
    "split_failures": "record",
}
__all__ = [
    "LLM",
    "ChatTemplateError",
    "ColumnError",
    "Completion",
    "EchoLLM",
    "EvolInstruct",
    "GenerationError",
    "InstructionFollowingDifficulty",
    "Judge",
    "Magpie",
    "Message",
    "Pipeline",
    "PushError",
    "Request",
    "Reward",
    "RewardModel",
    "RowError",
    "RunError",
    "SamplingParams",
    "SelfInstruct",
    "Technique",
    "TextGeneration",
    "TransformersLLM",
    "push_to_hub",
    "save",
    "split_failures",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hfsynth' has no attribute {name!r}")
    return getattr(import_module(f"hfsynth.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
