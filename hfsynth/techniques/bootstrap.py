"""Bootstrap instructions from seed tasks, as Self-Instruct (arXiv 2212.10560) does.

A prompt lists 8 tasks, 6 seeds that people wrote and 2 generated ones, and the model continues the list up to task 15.
New tasks pass the paper's rules and its novelty filter (ROUGE-L of at most 0.7), and then join the pool from which the
prompts of later rounds are sampled. The paper grows 175 seeds to 52,000 instructions:

    pipeline = BootstrapInstructions(llm) >> InstructionRules() >> Novelty(texts=seeds)
    dataset = pipeline.run(SeedPool(seeds=seeds), num_rows=52_000)

hfsynth differs in three points. These filters work in any language; to apply the paper's, which are for English, use
`InstructionRules(rules=InstructionRules.all_rules)` and `Novelty(texts=seeds, tokenizer="rouge_score")`. The prompt is
worded for chat models. A round has 64 prompts instead of 8.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from datasets import Dataset, Features, List, Value

from hfsynth.config import Configuration, settle_fields
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row, derive_seed
from hfsynth.jinja_sandbox import check_filled, check_prompt, render_prompt
from hfsynth.llm import Request, SamplingParams
from hfsynth.parsing.lists import parse_list
from hfsynth.technique import Input, Inputs, Technique
from hfsynth.techniques.self_instruct import CITATION

PROMPT = """\
Below is the beginning of a list of {{ num_tasks - 1 }} tasks for an assistant that reads and writes text. They \
differ in kind, subject, wording and length.

{% for example in examples %}
{{ loop.index }}. {{ example }}
{% endfor %}

Go on with number {{ examples|length + 1 }}, up to {{ num_tasks - 1 }}. Each task is a new one that is unlike all of \
those above. Write a numbered task on each line, and nothing else.
"""
_EXAMPLES = Features({"examples": List(Value("string"))})


@dataclass(frozen=True, kw_only=True)
class SeedPool(Configuration):
    """The input of a bootstrapping run: rows with `examples`, sampled from seed tasks and from generated tasks.

    Pass it to `Pipeline.run(…, num_rows=…)`. Generated examples are tasks that earlier rounds of the run accepted.

    >>> pool = SeedPool(seeds=tuple(f"Task {n}" for n in range(20)))
    >>> len(pool.rows(0, 3, [])[0]["examples"])
    8

    Raises:
        ValueError: If there are fewer seeds than examples in a prompt, or a number is out of range.
    """

    seeds: tuple[str, ...] = field(metadata={"help": "Seed tasks, written by people."})
    num_seed_examples: int = field(default=6, metadata={"help": "Seed tasks in each prompt."})
    num_generated_examples: int = field(
        default=2, metadata={"help": "Generated tasks in each prompt; seeds until that many were accepted."}
    )
    round_size: int = field(
        default=64, metadata={"help": "Prompts of a round; their tasks can be examples from the next round on."}
    )
    column: str = field(default="instruction", metadata={"help": "The column of the accepted tasks."})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})

    num_rows: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        """Check the seeds and the numbers."""
        settle_fields(self)
        object.__setattr__(self, "seeds", tuple(" ".join(seed.split()) for seed in self.seeds))
        if len(self.seeds) < self.num_examples:
            raise ValueError(
                f"SeedPool.seeds must be at least {self.num_examples}, as many as a prompt has, got {len(self.seeds)}."
            )
        for name, least in (("num_seed_examples", 1), ("num_generated_examples", 0), ("round_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"SeedPool.{name} must be at least {least}, got {getattr(self, name)}.")

    @property
    def num_examples(self) -> int:
        """The number of tasks in each prompt."""
        return self.num_seed_examples + self.num_generated_examples

    @property
    def fingerprint(self) -> str:
        """The fields as JSON, by which a run recognizes its input."""
        return self.to_json()

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:
        """Return rows with `examples`.

        Args:
            first: Index of the first row.
            count: Number of rows.
            accepted: The rows that earlier rounds accepted.
        """
        tasks = (" ".join(task.split()) for dataset in accepted for task in dataset[self.column])
        generated = list(dict.fromkeys(tasks))  # a later step may have turned one task into several rows
        examples = [self._sample(index, generated) for index in range(first, first + count)]
        return Dataset.from_dict({"examples": examples}, features=_EXAMPLES)

    def _sample(self, index: int, generated: Sequence[str]) -> list[str]:
        """Sample the tasks of one prompt, in random order."""
        rng = random.Random(derive_seed(self.seed, type(self).__name__, index, -1))
        count = self.num_generated_examples if len(generated) >= self.num_generated_examples else 0
        tasks = rng.sample(self.seeds, self.num_examples - count) + rng.sample(generated, count)
        rng.shuffle(tasks)
        return tasks


@dataclass(frozen=True, kw_only=True)
class BootstrapInstructions(Technique):
    """Continue a list of tasks: `examples` → `instruction`, one row for each task that the model adds.

    As in the paper, a completion that reaches max_new_tokens fails its row. So does one without a task.

    >>> from hfsynth import EchoLLM
    >>> list(BootstrapInstructions(EchoLLM()).output_features)
    ['instruction']
    """

    citation: ClassVar[str] = CITATION
    version: ClassVar[int] = 2

    num_tasks: int = field(default=16, metadata={"help": "The list ends before the task of this number."})
    prompt: str = field(default=PROMPT, metadata={"help": "Jinja2 text over examples and num_tasks."})
    sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.7, top_p=0.5, presence_penalty=2.0, max_new_tokens=1024),
        metadata={"help": "How tasks are sampled; a completion also stops before task `num_tasks`."},
    )

    def __post_init__(self) -> None:
        """Check the prompt."""
        super().__post_init__()
        if self.num_tasks < 2:
            raise ValueError(f"BootstrapInstructions.num_tasks must be at least 2, got {self.num_tasks}.")
        check_prompt("BootstrapInstructions.prompt", self.prompt, ("examples", "num_tasks"))

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """Return `examples`: the tasks with which the list begins."""
        return {"examples": Input.ANYTHING}

    @property
    def output_features(self) -> Features:
        """`instruction`: a task."""
        return Features({"instruction": Value("string")})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - samples nothing
        """Request the rest of the list, and parse it."""
        check_filled(row, ("examples",))
        prompt = render_prompt(self.prompt, {"examples": row["examples"], "num_tasks": self.num_tasks})
        stop = (*self.sampling.stop, f"\n{self.num_tasks}.", f"\n{self.num_tasks})")
        sampling = replace(self.sampling, stop=stop)
        completion = yield Request(
            messages=({"role": "user", "content": prompt},), sampling=sampling, keep_truncated=None
        )
        if completion.finish_reason == "length":
            raise RowError(f"the list was cut off after {completion.completion_tokens} tokens", completion.text)
        tasks = parse_list(completion.text)
        if not tasks:
            raise RowError("the completion has no task", completion.text)
        return [{"instruction": task} for task in tasks[: self.num_tasks - 1]]
