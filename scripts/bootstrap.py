# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Make instructions from a few that people wrote, as Self-Instruct does: a pool that grows, by rules and novelty.

    python scripts/bootstrap.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset seeds.jsonl --num-rows 5000

The input has a column `instruction`, with at least eight seeds; --max-rows limits the prompts that are tried.
"""

from dataclasses import dataclass, field, replace

from hfsynth import BootstrapInstructions, InstructionRules, Novelty, Pipeline, SeedPool
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@dataclass(frozen=True)
class FilterArguments:
    """Which instructions stay."""

    paper_filters: bool = field(
        default=False,
        metadata={
            "help": "Filter as the paper does, for English: ROUGE-L of words of a-z and 0-9 alone, and no instruction "
            "that begins with a character other than ASCII. Without it, any script and first character will do."
        },
    )

    def filters(self, seeds: tuple[str, ...]) -> Pipeline:
        """Return the rules, and the novelty filter."""
        if self.paper_filters:
            return InstructionRules(rules=InstructionRules.all_rules) >> Novelty(texts=seeds, tokenizer="rouge_score")
        return InstructionRules() >> Novelty(texts=seeds)


@plain_errors(*LLMS.values(), BootstrapInstructions)
def main() -> None:
    """Grow the pool until as many instructions as asked for are in it, save them, and push them where asked."""
    arguments = build_parser(__doc__, RunArguments, llm_class(), BootstrapInstructions, FilterArguments).parse_args()
    run = from_args(RunArguments, arguments)
    seed_rows = replace(run, max_rows=None).rows()
    if run.num_rows is None or seed_rows is None:
        raise ValueError("bootstrapping needs the seeds (--dataset) and the number of instructions (--num-rows).")
    seeds = tuple(seed_rows["instruction"])
    generate = from_args(BootstrapInstructions, arguments, from_args(llm_class(), arguments))
    run_and_save(
        generate >> from_args(FilterArguments, arguments).filters(seeds), run, "bootstrap", SeedPool(seeds=seeds)
    )


if __name__ == "__main__":
    main()
