"""Self-Instruct by bootstrapping (arXiv 2212.10560): a few tasks written by people → many like them.

Each prompt shows tasks of a pool, most of them people's, and the model goes on with the list. What it writes passes
the paper's rules, and the novelty filter, and joins the pool that the next round's prompts are drawn from:

    pipeline = BootstrapInstructions(llm) >> InstructionRules() >> Novelty(texts=seeds)
    dataset = pipeline.run(SeedPool(seeds=seeds), num_rows=50_000)

So it works in any language. The paper's own filters, which are for English, are
`InstructionRules(rules=InstructionRules.all_rules)` and `Novelty(texts=seeds, tokenizer="rouge_score")`.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from datasets import Dataset, Features, List, Value

from hfsynth.completion_text import parse_list
from hfsynth.config import Configuration, settle_fields
from hfsynth.errors import RowError
from hfsynth.flow import Flow, Row, derive_seed
from hfsynth.llm import Request, SamplingParams
from hfsynth.prompts import check_filled, check_prompt, render_prompt
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
    """The prompts of a bootstrapping run: rows with `examples`, drawn from seed tasks and from those made so far.

    An input of `Pipeline.run(…, num_rows=…)`. What a round's rows show was accepted in the rounds before it.

    >>> pool = SeedPool(seeds=tuple(f"Task {n}" for n in range(20)))
    >>> len(pool.rows(0, 3, [])[0]["examples"])
    8

    Raises:
        ValueError: If there are fewer seeds than a prompt shows.
    """

    seeds: tuple[str, ...] = field(metadata={"help": "Tasks that people wrote."})
    num_seed_examples: int = field(default=6, metadata={"help": "Seeds in each prompt."})
    num_generated_examples: int = field(
        default=2, metadata={"help": "Tasks made so far in each prompt; seeds, as long as there are not as many."}
    )
    round_size: int = field(default=64, metadata={"help": "Prompts of a round: what they bring is shown in the next."})
    column: str = field(default="instruction", metadata={"help": "The column with the tasks that were accepted."})
    seed: int = field(default=0, metadata={"help": "Start of every random draw."})

    num_rows: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        """Check the seeds and the numbers."""
        settle_fields(self)
        object.__setattr__(self, "seeds", tuple(" ".join(seed.split()) for seed in self.seeds))
        if len(self.seeds) < self.num_examples:
            raise ValueError(f"SeedPool has {len(self.seeds)} seeds; a prompt shows {self.num_examples}.")
        for name, least in (("num_seed_examples", 1), ("num_generated_examples", 0), ("round_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"SeedPool.{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def num_examples(self) -> int:
        """Tasks in each prompt."""
        return self.num_seed_examples + self.num_generated_examples

    @property
    def fingerprint(self) -> str:
        """What tells this pool from any other: its fields."""
        return self.to_json()

    def rows(self, first: int, count: int, accepted: Sequence[Dataset]) -> Dataset:
        """Return `count` rows with `examples`, from the one with index `first` on.

        Args:
            first: How many rows there were before.
            count: How many are wanted.
            accepted: What became of them.
        """
        tasks = (" ".join(task.split()) for dataset in accepted for task in dataset[self.column])
        made = list(dict.fromkeys(tasks))  # a later step may have made several rows of one
        drawn = [self._drawn(index, made) for index in range(first, first + count)]
        return Dataset.from_dict({"examples": drawn}, features=_EXAMPLES)

    def _drawn(self, index: int, made: Sequence[str]) -> list[str]:
        """Draw the tasks of one prompt, in the order in which they are shown."""
        rng = random.Random(derive_seed(self.seed, type(self).__name__, index, -1))
        from_made = self.num_generated_examples if len(made) >= self.num_generated_examples else 0
        tasks = rng.sample(self.seeds, self.num_examples - from_made) + rng.sample(made, from_made)
        rng.shuffle(tasks)
        return tasks


@dataclass(frozen=True, kw_only=True)
class BootstrapInstructions(Technique):
    """Go on with a list of tasks: `examples` → `instruction`, one row for each task that the model adds.

    A completion that was cut off is a failed row, as in the paper, and so is one without a task.

    >>> from hfsynth import EchoLLM
    >>> list(BootstrapInstructions(EchoLLM()).output_features)
    ['instruction']
    """

    citation: ClassVar[str] = CITATION
    version: ClassVar[int] = 2

    num_tasks: int = field(default=16, metadata={"help": "The list ends before this number."})
    prompt: str = field(default=PROMPT, metadata={"help": "Jinja2 text over examples and num_tasks."})
    sampling: SamplingParams = field(
        default=SamplingParams(temperature=0.7, top_p=0.5, presence_penalty=2.0, max_new_tokens=1024),
        metadata={"help": "How tasks are sampled; a completion also stops before number `num_tasks`."},
    )

    def __post_init__(self) -> None:
        """Check the prompt."""
        super().__post_init__()
        check_prompt("BootstrapInstructions.prompt", self.prompt, ("examples", "num_tasks"))

    def input_features(self, available: Collection[str]) -> Inputs:  # noqa: ARG002 - always the same
        """`examples`: the tasks that the list begins with."""
        return {"examples": Input.ANYTHING}

    @property
    def output_features(self) -> Features:
        """`instruction`."""
        return Features({"instruction": Value("string")})

    def flow(self, row: Row, rng: random.Random) -> Flow:  # noqa: ARG002 - nothing is drawn here
        """Ask once, and parse."""
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
