# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Generate instructions from human-written seeds, as Self-Instruct does: grow a pool, filtered by rules and novelty.

    python scripts/bootstrap.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct --dataset seeds.jsonl --num-rows 5000

The input has at least eight seeds in a column `instruction`; --max-rows limits the number of prompts.
"""

from dataclasses import dataclass, field, replace

from hfsynth import BootstrapInstructions, InstructionRules, Novelty, Pipeline, SeedPool
from hfsynth.cli import LLMS, RunArguments, build_parser, from_args, llm_class, plain_errors, run_and_save


@dataclass(frozen=True)
class FilterArguments:
    """Filters of the generated instructions."""

    paper_filters: bool = field(
        default=False,
        metadata={
            "help": "Filter as the paper does, for English: compute ROUGE-L only on words of a-z and 0-9, and drop "
            "instructions that begin with a non-ASCII character. By default, any script and first character are kept."
        },
    )

    def filters(self, seeds: tuple[str, ...]) -> Pipeline:
        """Return the rules, and the novelty filter."""
        if self.paper_filters:
            return InstructionRules(rules=InstructionRules.all_rules) >> Novelty(texts=seeds, tokenizer="rouge_score")
        return InstructionRules() >> Novelty(texts=seeds)


@plain_errors(*LLMS.values(), BootstrapInstructions)
def main() -> None:
    """Grow the pool to --num-rows instructions, save them, and push them if asked."""
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
