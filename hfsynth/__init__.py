"""Turn a Hugging Face `Dataset` into an instruction-tuning dataset, on your own machines.

Everything public is imported on first use, so that `import hfsynth` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsynth.analysis.report import Comparison as Comparison
    from hfsynth.analysis.report import Report as Report
    from hfsynth.analysis.report import report as report
    from hfsynth.config import Configuration as Configuration
    from hfsynth.errors import ChatTemplateError as ChatTemplateError
    from hfsynth.errors import ColumnError as ColumnError
    from hfsynth.errors import GenerationError as GenerationError
    from hfsynth.errors import HfsynthError as HfsynthError
    from hfsynth.errors import PushError as PushError
    from hfsynth.errors import RowError as RowError
    from hfsynth.errors import RunError as RunError
    from hfsynth.errors import ServerError as ServerError
    from hfsynth.filter import Drop as Drop
    from hfsynth.filter import Filter as Filter
    from hfsynth.filters.decontaminate import Decontaminate as Decontaminate
    from hfsynth.filters.deduplicate import Deduplicate as Deduplicate
    from hfsynth.filters.instruction_rules import InstructionRules as InstructionRules
    from hfsynth.filters.novelty import Novelty as Novelty
    from hfsynth.filters.wellformed import WellFormed as WellFormed
    from hfsynth.filters.where import Where as Where
    from hfsynth.llm import LLM as LLM
    from hfsynth.llm import Completion as Completion
    from hfsynth.llm import Message as Message
    from hfsynth.llm import Request as Request
    from hfsynth.llm import SamplingParams as SamplingParams
    from hfsynth.llms.fakes import EchoLLM as EchoLLM
    from hfsynth.llms.fakes import ScriptedLLM as ScriptedLLM
    from hfsynth.llms.openai import OpenAILLM as OpenAILLM
    from hfsynth.llms.reward_model import RewardModel as RewardModel
    from hfsynth.llms.transformers import TransformersLLM as TransformersLLM
    from hfsynth.llms.vllm import VLLM as VLLM
    from hfsynth.pipeline import Pipeline as Pipeline
    from hfsynth.publish.files import save as save
    from hfsynth.publish.hub import push_to_hub as push_to_hub
    from hfsynth.record import split_failures as split_failures
    from hfsynth.runner.run import RunResult as RunResult
    from hfsynth.runner.run import run as run
    from hfsynth.samplers import CategorySampler as CategorySampler
    from hfsynth.samplers import PersonaSampler as PersonaSampler
    from hfsynth.technique import Input as Input
    from hfsynth.technique import Technique as Technique
    from hfsynth.techniques.bootstrap import BootstrapInstructions as BootstrapInstructions
    from hfsynth.techniques.bootstrap import SeedPool as SeedPool
    from hfsynth.techniques.evol_instruct import EvolInstruct as EvolInstruct
    from hfsynth.techniques.instruction_difficulty import (
        InstructionFollowingDifficulty as InstructionFollowingDifficulty,
    )
    from hfsynth.techniques.judge import Judge as Judge
    from hfsynth.techniques.magpie import Magpie as Magpie
    from hfsynth.techniques.reward import Reward as Reward
    from hfsynth.techniques.reward import RewardDifference as RewardDifference
    from hfsynth.techniques.self_instruct import SelfInstruct as SelfInstruct
    from hfsynth.techniques.self_instruct_instances import SelfInstructInstances as SelfInstructInstances
    from hfsynth.techniques.text_generation import TextGeneration as TextGeneration
    from hfsynth.training_format import TrainingFormat as TrainingFormat
    from hfsynth.verification.verify import Verification as Verification
    from hfsynth.verification.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "BootstrapInstructions": "techniques.bootstrap",
    "CategorySampler": "samplers",
    "ChatTemplateError": "errors",
    "ColumnError": "errors",
    "Comparison": "analysis.report",
    "Completion": "llm",
    "Configuration": "config",
    "Decontaminate": "filters.decontaminate",
    "Deduplicate": "filters.deduplicate",
    "Drop": "filter",
    "EchoLLM": "llms.fakes",
    "EvolInstruct": "techniques.evol_instruct",
    "Filter": "filter",
    "GenerationError": "errors",
    "HfsynthError": "errors",
    "Input": "technique",
    "InstructionFollowingDifficulty": "techniques.instruction_difficulty",
    "InstructionRules": "filters.instruction_rules",
    "Judge": "techniques.judge",
    "LLM": "llm",
    "Magpie": "techniques.magpie",
    "Message": "llm",
    "Novelty": "filters.novelty",
    "OpenAILLM": "llms.openai",
    "PersonaSampler": "samplers",
    "Pipeline": "pipeline",
    "PushError": "errors",
    "Report": "analysis.report",
    "Request": "llm",
    "Reward": "techniques.reward",
    "RewardDifference": "techniques.reward",
    "RewardModel": "llms.reward_model",
    "RowError": "errors",
    "RunError": "errors",
    "RunResult": "runner.run",
    "SamplingParams": "llm",
    "ScriptedLLM": "llms.fakes",
    "SeedPool": "techniques.bootstrap",
    "SelfInstruct": "techniques.self_instruct",
    "SelfInstructInstances": "techniques.self_instruct_instances",
    "ServerError": "errors",
    "Technique": "technique",
    "TextGeneration": "techniques.text_generation",
    "TrainingFormat": "training_format",
    "TransformersLLM": "llms.transformers",
    "Verification": "verification.verify",
    "VLLM": "llms.vllm",
    "WellFormed": "filters.wellformed",
    "Where": "filters.where",
    "push_to_hub": "publish.hub",
    "report": "analysis.report",
    "run": "runner.run",
    "save": "publish.files",
    "split_failures": "record",
    "verify": "verification.verify",
}
__all__ = [
    "LLM",
    "VLLM",
    "BootstrapInstructions",
    "CategorySampler",
    "ChatTemplateError",
    "ColumnError",
    "Comparison",
    "Completion",
    "Configuration",
    "Decontaminate",
    "Deduplicate",
    "Drop",
    "EchoLLM",
    "EvolInstruct",
    "Filter",
    "GenerationError",
    "HfsynthError",
    "Input",
    "InstructionFollowingDifficulty",
    "InstructionRules",
    "Judge",
    "Magpie",
    "Message",
    "Novelty",
    "OpenAILLM",
    "PersonaSampler",
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
    "SamplingParams",
    "ScriptedLLM",
    "SeedPool",
    "SelfInstruct",
    "SelfInstructInstances",
    "ServerError",
    "Technique",
    "TextGeneration",
    "TrainingFormat",
    "TransformersLLM",
    "Verification",
    "WellFormed",
    "Where",
    "push_to_hub",
    "report",
    "run",
    "save",
    "split_failures",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hfsynth' has no attribute {name!r}")
    return getattr(import_module(f"hfsynth.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
