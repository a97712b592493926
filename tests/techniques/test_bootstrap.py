import runpy
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from hfsynth import ColumnError, Pipeline
from hfsynth.filter import Filter
from hfsynth.techniques.bootstrap import BootstrapInstructions, SeedPool
from tests.helpers import OnlyOnce, RepeatingLLM, drive, say

SEEDS = tuple(f"Seed {n}." for n in range(12))


def pool(**fields):
    return SeedPool(seeds=SEEDS, **fields)


def listed(examples):
    return Counter(example.partition(" ")[0] for example in examples)


def accepted(*tasks):
    return [Dataset.from_dict({"instruction": list(tasks)})]


def test_seed_pool_first_round_has_only_seeds():
    for produced in ([], accepted("Made 0.")):
        for row in pool().rows(0, 20, produced):
            assert listed(row["examples"]) == {"Seed": 8}
            assert len(set(row["examples"])) == 8


def test_seed_pool_later_rounds_mix_in_generated_tasks():
    rows = pool().rows(0, 50, accepted("Made 0.", "Made 1.") + accepted("Made 2."))
    assert all(listed(row["examples"]) == {"Seed": 6, "Made": 2} for row in rows)
    places = {row["examples"].index(task) for row in rows for task in row["examples"] if task.startswith("Made")}
    assert places == set(range(8))


def test_seed_pool_rows_depend_on_their_index_only():
    assert pool().rows(0, 9, [])[4:] == pool().rows(4, 5, [])[:]
    assert pool(seed=1).rows(0, 9, [])[:] != pool().rows(0, 9, [])[:]


def test_seed_pool_tasks_are_one_line():
    rows = SeedPool(seeds=("Say\n\n this.",) * 8).rows(0, 1, [])
    assert rows[0]["examples"] == ["Say this."] * 8


def test_seed_pool_too_few_seeds_is_an_error():
    with pytest.raises(ValueError, match=r"SeedPool\.seeds .*8.*\b2\."):
        SeedPool(seeds=("a", "b"))
    with pytest.raises(ValueError, match=r"SeedPool\.round_size .*\b0\."):
        pool(round_size=0)


def test_bootstrap_prompt_lists_examples_and_next_number():
    flow = BootstrapInstructions(RepeatingLLM()).flow({"examples": ["Name a river.", "Sum 2 and 3."]}, None)
    prompt = next(flow).messages[0]["content"]
    assert "1. Name a river.\n" in prompt
    assert "2. Sum 2 and 3.\n" in prompt
    assert "Go on with number 3, up to 15." in prompt


def test_bootstrap_default_sampling_is_the_papers():
    request = next(BootstrapInstructions(RepeatingLLM()).flow({"examples": ["a"]}, None)).sampling
    assert (request.temperature, request.top_p, request.presence_penalty) == (0.7, 0.5, 2.0)
    assert request.max_new_tokens == 1024
    assert "\n16." in request.stop


def test_bootstrap_each_task_is_a_row():
    flow = BootstrapInstructions(RepeatingLLM()).flow({"examples": ["a"]}, None)
    _, rows = drive(flow, say("9. Write a haiku.\n10. Explain rain\nto a child.\n"))
    assert [row["instruction"] for row in rows] == ["Write a haiku.", "Explain rain\nto a child."]


def test_bootstrap_first_task_without_number_is_a_row():
    """A model goes on with the number that the prompt ends in, as the paper's does."""
    flow = BootstrapInstructions(RepeatingLLM()).flow({"examples": ["a"]}, None)
    _, rows = drive(flow, say("Write a haiku.\n10. Name a river:\n- in Asia\n- in Africa\n11. Sum 2 and 3."))
    tasks = [row["instruction"] for row in rows]
    assert tasks == ["Write a haiku.", "Name a river:\n- in Asia\n- in Africa", "Sum 2 and 3."]


def failure(reply, finish_reason="stop"):
    produced = (
        pool()
        .rows(0, 1, [])
        .map(
            BootstrapInstructions(RepeatingLLM((reply,), finish_reason=finish_reason)), batched=True, with_indices=True
        )
    )
    return produced[0]["generation_metadata"][0]["error"]


def test_bootstrap_truncated_completion_fails():
    assert failure("9. Write a haiku.\n10. Expl", "length") == "the list was cut off after 2 tokens"


def test_bootstrap_completion_without_a_task_fails():
    assert failure("\n\n") == "the completion has no task"


def bootstrapping(*filters: Filter, log: str | None = None) -> Pipeline:
    replies = tuple(f"9. Write about {n}.\n10. Explain {n // 2}.\n11. Name it." for n in range(40))
    return Pipeline((BootstrapInstructions(RepeatingLLM(replies, log)), *filters))


def test_run_accepted_tasks_are_examples_of_the_next_round(tmp_path):
    log = tmp_path / "log"
    produced = bootstrapping(OnlyOnce(), log=str(log)).run(
        pool(round_size=4), num_rows=12, run_dir=tmp_path / "run", quiet=True
    )
    assert produced["instruction"][:7] == [
        "Write about 0.", "Explain 0.", "Name it.", "Write about 1.", "Write about 2.", "Explain 1.", "Write about 3.",
    ]  # fmt: skip
    asked = log.read_text().splitlines()
    assert not any("Write about" in prompt or "Explain" in prompt for prompt in asked[:4])
    assert all(len(set(produced["instruction"][:7]) & set(listed_in(prompt))) == 2 for prompt in asked[4:8])


def listed_in(prompt):
    return [line.partition(". ")[2] for line in prompt.split("\\n") if line[:1].isdigit()]


def test_run_repeated_requests_nothing(tmp_path):
    log = tmp_path / "log"
    first = bootstrapping(OnlyOnce(), log=str(log)).run(
        pool(round_size=4), num_rows=12, run_dir=tmp_path / "run", chunk_size=2, quiet=True
    )
    asked = log.read_text()
    repeated = bootstrapping(OnlyOnce(), log=str(log)).run(
        pool(round_size=4), num_rows=12, run_dir=tmp_path / "run", chunk_size=2, quiet=True
    )
    assert (repeated.to_list(), log.read_text()) == (first.to_list(), asked)


def test_bootstrap_missing_column_is_an_error():
    with pytest.raises(ColumnError, match="'examples'"):
        bootstrapping().run(Dataset.from_dict({"id": [0]}))


def test_bootstrap_script_paper_flag_uses_its_filters():
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bootstrap.py"))
    rows = Dataset.from_dict(
        {
            "instruction": [
                "Écris un court poème sur la mer.",
                "Name a red fruit please.",
                "Python으로 정렬하는 함수를 하나 써 주세요.",
            ]
        }
    )
    kept = []
    for paper_filters in (False, True):
        filters = script["FilterArguments"](paper_filters).filters(("Python",)).steps
        kept.append(filters[1](filters[0](rows))["instruction"][:])
    assert kept == [rows["instruction"][:], ["Name a red fruit please."]]
