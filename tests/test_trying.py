from dataclasses import dataclass

import pytest
from datasets import Dataset, load_dataset

from hfsynth import EchoLLM, EvolInstruct, GenerationError, Judge, Pipeline, SelfInstruct, TextGeneration
from hfsynth.dry_run import try_steps
from tests.conftest import GGUF
from tests.helpers import OnlyOnce, ScriptedLLM

GIVEN = Dataset.from_dict({"instruction": ["Make tea.", "Make tea.", None, "Sing."]})


@dataclass(frozen=True)
class Unloadable(ScriptedLLM):
    def load(self):
        raise GenerationError("it can't be loaded")


@dataclass(frozen=True)
class Announcing(ScriptedLLM):
    def load(self):
        print("load")

    def unload(self):
        print("unload")


def longer(dataset):
    return dataset.select(range(2))


def none(dataset):
    return dataset.select([])


def test_each_call_of_a_row_is_kept_with_what_was_read_and_written():
    (step,) = try_steps([EvolInstruct(ScriptedLLM(("Make green tea.",)), generate_answers=True)], GIVEN.select([0]))
    (row,) = step.rows
    assert "#Given Prompt#:\nMake tea." in row.calls[0].prompt
    assert row.calls[1].prompt == "user: Make green tea."
    assert [call.written for call in row.calls] == ["Make green tea."] * 2
    assert row.made[0]["evolved_instruction"] == "Make green tea."
    assert (row.tokens, step.tokens) == (10, 10)


def test_a_row_that_fails_shows_what_it_came_to():
    llm = ScriptedLLM(("!too tired", "fine"))
    (step,) = try_steps([TextGeneration(llm)], GIVEN)
    assert [row.error for row in step.rows] == ["too tired", "", "instruction is None", "too tired"]
    assert [len(row.calls) for row in step.rows] == [1, 1, 0, 1]
    assert step.rows[0].calls[0].completion.error == "too tired"
    assert step.rows_out == 4


def test_a_flow_that_asks_for_nothing_is_shown_too():
    (step,) = try_steps([EvolInstruct(EchoLLM(), num_evolutions=0)], GIVEN.select([0]))
    assert step.rows[0].calls == ()
    assert step.rows[0].made[0]["evolved_instruction"] == "Make tea."


def test_columns_have_the_datasets_names_and_choices_their_scores():
    (step,) = try_steps([Judge.quality(EchoLLM())], GIVEN.select([0]))
    (row,) = step.rows
    assert set(row.made[0]) == {"quality", "quality_probabilities"}
    assert len(row.calls[0].choices) == len(row.calls[0].completion.scores) == 5


def test_filters_and_functions_are_steps_like_any_other():
    first, second, third = try_steps(Pipeline([OnlyOnce(), longer, TextGeneration(EchoLLM())]).steps, GIVEN)
    assert [row.error for row in first.rows] == ["", "repeated: 1 (Make tea.)", "", ""]
    assert [row.kept for row in first.rows] == [1, 0, 1, 1]
    assert first.rows[1].made == ({"instruction": "Make tea."},)
    assert (first.rows_out, second.rows_out, len(third.rows)) == (3, 2, 2)


def test_of_a_function_only_the_numbers_of_rows_are_known():
    (step,) = try_steps(Pipeline([longer]).steps, GIVEN)
    assert (step.rows, step.rows_in, step.rows_out) == ((), 4, 2)


def test_rows_that_failed_earlier_are_told_in_later_steps():
    answer = TextGeneration(ScriptedLLM(("!tired", "fine")))
    _, judged, cut = try_steps(Pipeline([answer, Judge.quality(EchoLLM()), longer]).steps, GIVEN)
    assert [row.sound for row in judged.rows] == [False, True, False, False]
    assert [row.accepted for row in judged.rows] == [0, 1, 0, 0]
    assert (judged.failed_in, judged.failed_out, cut.failed_out) == (3, 3, 1)


def test_a_filter_that_compares_rows_is_known_as_one():
    assert [step.stateful for step in try_steps(Pipeline([OnlyOnce(), longer]).steps, GIVEN)] == [True, False]


def test_a_step_that_no_row_is_left_for_is_not_run():
    first, second, third = try_steps(Pipeline([longer, none, TextGeneration(Unloadable())]).steps, GIVEN)
    assert (second.rows_out, third.rows_in, third.rows_out, third.rows) == (0, 0, 0, ())
    assert first.rows_out == 2


def test_two_models_are_never_in_memory_at_once(capsys):
    first, second = Announcing(("fine",)), Announcing(("good",))
    again = TextGeneration(first, output_mappings={"generation": "again"})
    try_steps([TextGeneration(first), again, Judge.quality(second)], GIVEN)
    assert capsys.readouterr().out.split() == ["load", "load", "unload", "load"]


def test_a_row_that_becomes_several_is_counted_so():
    llm = ScriptedLLM(("1. Say a.\n2. Say b.",))
    first, second = try_steps([SelfInstruct(llm), TextGeneration(llm)], Dataset.from_dict({"input": ["x", "y"]}))
    assert [row.kept for row in first.rows] == [2, 2]
    assert len(second.rows) == first.rows_out == 4


def test_the_rows_are_those_that_a_run_begins_with_and_the_cache_keeps_nothing(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"instruction": "say {n}"}}\n' for n in range(6)))
    given = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    steps = Pipeline((TextGeneration(EchoLLM()), Judge.quality(EchoLLM()))).steps
    before = sorted(tmp_path.rglob("*"))
    tried = try_steps(steps, given.select(range(4)))
    assert sorted(tmp_path.rglob("*")) == before
    made = Pipeline(steps).run(given, run_dir=tmp_path / "run", quiet=True)
    assert [row.made[0]["quality_probabilities"] for row in tried[1].rows] == made["quality_probabilities"][:4]


@pytest.mark.model
def test_the_prompt_is_what_the_real_model_reads_and_writes_special_tokens_too(smollm_folder):
    from hfsynth import SamplingParams, TransformersLLM

    llm = TransformersLLM(smollm_folder, gguf_file=GGUF, dtype="float32", batch_size=8)
    short = SamplingParams(temperature=0, max_new_tokens=40)
    (step,) = try_steps([TextGeneration(llm, sampling=short)], Dataset.from_dict({"instruction": ["Say only: yes"]}))
    (call,) = step.rows[0].calls
    assert call.prompt.endswith("<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\n")
    assert call.written.removesuffix("<|im_end|>").strip() == call.completion.text
    assert call.completion.finish_reason == "length" or call.written.endswith("<|im_end|>")
