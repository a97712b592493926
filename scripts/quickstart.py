# /// script
# requires-python = ">=3.10"
# dependencies = ["hfsynth"]
#
# [tool.uv.sources]
# hfsynth = { path = "..", editable = true }
# ///
"""Generate two small instruction-tuning datasets with one model: one from texts, one without any input.

`self_instruct`: the texts of scripts/seeds.jsonl → SelfInstruct → EvolInstruct → TextGeneration.
`magpie`: Magpie, from empty rows.

A second run generates nothing, since all rows are finished.
"""

import argparse
import textwrap
from pathlib import Path

from datasets import Dataset, load_dataset

from hfsynth import (
    EvolInstruct,
    Magpie,
    Pipeline,
    SamplingParams,
    SelfInstruct,
    TextGeneration,
    TransformersLLM,
    save,
    split_failures,
)
from hfsynth.cli import plain_errors, print_main

INSTRUCTIONS = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=128)
RESPONSES = SamplingParams(temperature=0.7, top_p=0.95, max_new_tokens=512)


@plain_errors()
def main() -> None:
    """Run both pipelines and print some of the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Name of an instruct model on the Hub, or a folder.")
    parser.add_argument("--gguf-file", help="GGUF file in that folder.")
    parser.add_argument(
        "--dtype", default="auto", help="Type of the weights. Default: the model's, or on a CPU float32 if faster."
    )
    parser.add_argument("--num-rows", type=int, default=24, help="Texts to use, and rows of Magpie. Default: 24.")
    parser.add_argument("--output-dir", type=Path, default="outputs/quickstart", help="Default: outputs/quickstart.")
    parser.add_argument("--push-to-hub", help="Dataset on the Hub, user/name, to push both datasets to.")
    arguments = parser.parse_args()

    llm = TransformersLLM(arguments.model, gguf_file=arguments.gguf_file, dtype=arguments.dtype)
    chain = (
        SelfInstruct(llm, num_instructions=3, sampling=INSTRUCTIONS)
        >> EvolInstruct(llm, num_evolutions=1, sampling=INSTRUCTIONS)
        >> TextGeneration(
            llm,
            input_mappings={"instruction": "evolved_instruction"},
            output_mappings={"generation": "response"},
            sampling=RESPONSES,
        )
    )
    question = SamplingParams(temperature=1.0, max_new_tokens=128)
    magpie = Pipeline((Magpie(llm, instruction_sampling=question, response_sampling=RESPONSES),))

    texts = load_dataset("json", data_files=str(Path(__file__).with_name("seeds.jsonl")), split="train")
    texts = texts.select(range(min(arguments.num_rows, len(texts))))
    empty = Dataset.from_dict({"id": list(range(arguments.num_rows))})
    for pipeline, rows, name, columns in (
        (chain, texts, "self_instruct", ("evolved_instruction", "response")),
        (magpie, empty, "magpie", ("instruction", "response")),
    ):
        run_dir = arguments.output_dir.with_name(f"{arguments.output_dir.name}-run")
        dataset = pipeline.run(rows, run_dir=run_dir, chunk_size=12, push_target=arguments.push_to_hub)
        save(dataset, arguments.output_dir, config_name=name)
        show(dataset, name, columns)
        if arguments.push_to_hub:
            print_main(f"pushed: {pipeline.push_to_hub(dataset, arguments.push_to_hub, config_name=name)}")
    for name in ("self_instruct", "magpie"):
        print_main(f'load_dataset("{arguments.output_dir}", "{name}")')


def show(dataset: Dataset, name: str, columns: tuple[str, str]) -> None:
    """Print a few rows and failures."""
    rows, failures = split_failures(dataset)
    print_main(f"\n{name}: {len(rows)} of {len(dataset)} rows, {len(failures)} failed")
    print_main(f"{columns[0]:<58}| {columns[1]}")
    for row in rows.select(range(min(4, len(rows)))):
        left, right = (textwrap.wrap(row[column], 56, max_lines=3, placeholder=" …") for column in columns)
        print_main("-" * 58 + "+" + "-" * 58)
        for line in range(max(len(left), len(right))):
            print_main(f"{''.join(left[line : line + 1]):<58}| {''.join(right[line : line + 1])}")
    if len(failures):
        print_main("\nfailed")
    for failure in failures.select(range(min(4, len(failures)))):
        print_main(f"  {failure['step']}, row {failure['row']}: {failure['reason']}: {failure['raw'][:60]!r}")


if __name__ == "__main__":
    main()
