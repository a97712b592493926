import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict, List, Value
from datasets.formatting.formatting import LazyBatch, PythonFormatter

from hfsynth import (
    ColumnError,
    EchoLLM,
    EvolInstruct,
    GenerationError,
    InstructionFollowingDifficulty,
    Judge,
    Magpie,
    Pipeline,
    Request,
    Reward,
    RowError,
    Technique,
    TextGeneration,
)
from hfsynth.record import METADATA_ENTRY
from hfsynth.technique import Input, batch_rows, checked_arguments, merge_columns
from tests.helpers import RepeatingLLM


@dataclass(frozen=True, kw_only=True)
class Split(Technique):
    """Splits the completion at spaces: one row for each word; none but "!" fails."""

    note: str = field(default="", metadata={"help": "Nothing."})

    def input_features(self, available):
        return {"text": Input.TEXT}

    @property
    def output_features(self):
        return Features({"word": Value("string"), "letters": List(Value("string"))})

    def flow(self, row, rng):
        completion = yield Request(messages=({"role": "user", "content": row["text"]},))
        if completion.text == "bad":
            raise RowError("it is bad", completion.text)
        return [{"word": word, "letters": list(word)} for word in completion.text.split()]


@dataclass(frozen=True, kw_only=True)
class Raising(Split):
    """Raises for the text "bad", as a bug would."""

    def flow(self, row, rng):
        if row["text"] == "bad":
            raise KeyError(row["text"])
        return (yield from super().flow(row, rng))


def run(technique, dataset, **options):
    return dataset.map(technique, batched=True, with_indices=True, **options)


def texts(*values):
    return Dataset.from_dict({"text": list(values)})


def test_map_of_multiplied_rows_repeats_other_columns():
    dataset = texts("a b", "c").add_column("kind", [0, 1]).cast_column("kind", ClassLabel(names=["x", "y"]))
    result = run(Split(EchoLLM()), dataset)
    assert result["word"][:] == ["a", "b", "c"]
    assert result["kind"][:] == [0, 0, 1]
    assert result.features["kind"] == ClassLabel(names=["x", "y"])


def test_map_of_a_failing_row_completes_the_others():
    result = run(Split(EchoLLM()), texts("a", "bad", "c"))
    assert result["word"][:] == ["a", None, "c"]
    assert [entries[0]["error"] for entries in result["generation_metadata"]] == ["", "it is bad", ""]
    assert result[1]["generation_metadata"][0]["raw"] == "bad"


def test_map_keeps_types_after_a_failed_first_batch():
    result = run(Split(EchoLLM()), texts("bad", "bad", "a", "b"), batch_size=2)
    assert result["word"][:] == [None, None, "a", "b"]
    assert result.features["letters"] == List(Value("string"))


def test_map_writes_a_failed_last_batch():
    assert run(Split(EchoLLM()), texts("a", "bad"), batch_size=1)["word"][:] == ["a", None]


@pytest.mark.parametrize(("value", "reason"), [(None, "text is None"), ("", "text is empty"), ("  ", "text is empty")])
def test_map_of_a_missing_text_fails_without_a_request(value, reason, tmp_path):
    log = tmp_path / "log"
    result = run(Split(RepeatingLLM(log=str(log))), texts("a", value))
    assert result[-1]["generation_metadata"][0]["error"] == reason
    assert log.read_text().count("\n") == 1


def test_map_of_an_empty_batch_has_empty_columns():
    result = Split(EchoLLM())({"text": []}, [])
    assert result == {"word": [], "letters": [], "generation_metadata": []}


def test_map_of_a_dataset_dict_completes_every_split():
    splits = DatasetDict({"train": texts("a"), "test": texts("b", "c")})
    assert run(Split(EchoLLM()), splits["test"])["word"][:] == ["b", "c"]
    assert run(Split(EchoLLM()), splits)["train"]["word"][:] == ["a"]


def test_map_of_a_stream_has_the_same_rows():
    dataset = texts("a b", "bad", "c")
    mapped = run(Split(EchoLLM()), dataset)
    assert list(run(Split(EchoLLM()), dataset.to_iterable_dataset())) == list(mapped)


@pytest.mark.parametrize("values", [("a", "b"), ("bad", "a b"), ("a b", "bad"), ("bad", "bad")])
def test_map_removes_columns(values):
    result = run(Split(EchoLLM()), texts(*values), remove_columns=["text"], batch_size=1)
    assert sorted(result.column_names) == ["generation_metadata", "letters", "word"]
    assert len(result) == sum(max(1, len(value.split())) for value in values)


def test_map_of_numpys_format_has_the_same_rows():
    result = run(Split(EchoLLM()), texts("a b", "c").with_format("numpy")).with_format(None)
    assert result["word"][:] == ["a", "b", "c"]


def test_map_appends_an_entry_for_every_technique():
    result = run(Split(EchoLLM()), texts("a b", "c"))
    result = run(TextGeneration(EchoLLM(), input_mappings={"instruction": "word"}), result)
    entries = result[2]["generation_metadata"]
    assert [(entry["step"], entry["row"]) for entry in entries] == [("Split", 1), ("TextGeneration", 2)]
    assert set(entries[0]) == set(METADATA_ENTRY)
    assert entries[0]["model"] == "echo"
    assert entries[0]["seed"] != entries[1]["seed"]


def test_map_of_a_missing_column_raises_with_the_mapping():
    with pytest.raises(ColumnError, match=r"Split .*'text'.*\['prompt'\].*input_mappings="):
        run(Split(EchoLLM()), Dataset.from_dict({"prompt": ["a"]}))


def test_map_of_a_wrong_type_raises_before_generation(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ColumnError, match=r"Split .*'text'.*7"):
        run(Split(RepeatingLLM(log=str(log))), Dataset.from_dict({"text": [7]}))
    assert not log.exists()


def test_map_replaces_a_column_only_by_a_mapping():
    dataset = texts("a").add_column("word", ["old"])
    with pytest.raises(ColumnError, match=r"Split .*'word'.*output_mappings="):
        run(Split(EchoLLM()), dataset)
    assert run(Split(EchoLLM(), output_mappings={"word": "word"}), dataset)["word"][:] == ["a"]
    assert run(Split(EchoLLM(), output_mappings={"word": "text"}), texts("a b"))["text"][:] == ["a", "b"]


@pytest.mark.parametrize(
    ("mappings", "message"),
    [
        ({"output_mappings": {"wrd": "x"}}, r"renames \['wrd'\]; it makes \['word', 'letters'\]"),
        ({"output_mappings": {"word": "x", "letters": "x"}}, "must name different columns"),
        ({"output_mappings": {"word": "generation_metadata"}}, "must name different columns"),
    ],
)
def test_output_mapping_of_an_unknown_output_raises(mappings, message):
    with pytest.raises(ValueError, match=message):
        Split(EchoLLM(), **mappings)


def test_input_mapping_of_an_unread_input_raises():
    with pytest.raises(ColumnError, match=r"names \['txt'\]; it reads \['text'\]"):
        run(Split(EchoLLM(), input_mappings={"txt": "a"}), texts("a"))


@pytest.mark.parametrize("options", [{"batched": True}, {"with_indices": True}, {}])
def test_map_without_batches_or_indices_raises_with_the_call(options):
    with pytest.raises(TypeError, match=r"batched=True, with_indices=True"):
        texts("a").map(Split(EchoLLM()), **options)


def test_technique_without_an_llm_raises():
    with pytest.raises(TypeError, match=r"Split .*llm"):
        Split("gpt2")


def test_seeds_depend_on_the_row_and_not_on_the_batch():
    dataset = texts(*"abcdef")
    one, two = (run(Split(EchoLLM()), dataset, batch_size=size) for size in (2, 3))
    assert one["generation_metadata"][:] == two["generation_metadata"][:]
    assert len({entries[0]["seed"] for entries in one["generation_metadata"]}) == 6


def test_map_by_worker_processes_has_the_same_rows():
    dataset = texts("a b", "c", "d", "e")
    assert run(Split(EchoLLM()), dataset, num_proc=2)[:] == run(Split(EchoLLM()), dataset)[:]


def test_check_features_has_the_columns_of_a_map():
    technique = Split(EchoLLM(), output_mappings={"word": "w"})
    checked = technique.check_features(Features({"text": Value("large_string")}))
    assert checked == run(technique, texts("a")).features | {"text": Value("large_string")}
    with pytest.raises(ColumnError, match=r"'text'.*Value"):
        technique.check_features(Features({"text": Value("int64")}))


MAP_IN_A_PROCESS = """
import sys
from datasets import load_dataset
from hfsynth import SamplingParams, TextGeneration
from tests.helpers import RepeatingLLM

file, log, system_prompt, temperature, reply = sys.argv[1:]
technique = TextGeneration(
    RepeatingLLM(replies=(reply,), log=log),
    system_prompt=system_prompt,
    sampling=SamplingParams(temperature=float(temperature)),
)
dataset = load_dataset("json", data_files=file, split="train")
print(dataset.map(technique, batched=True, with_indices=True)["generation"][:])
"""


def test_map_in_a_new_process_reads_the_cache(tmp_path):
    file, log = tmp_path / "rows.jsonl", tmp_path / "log"
    file.write_text('{"instruction": "a"}\n{"instruction": "b"}\n')

    def requests_after(*arguments):
        command = [sys.executable, "-c", MAP_IN_A_PROCESS, str(file), str(log), *arguments]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
        root = Path(__file__).parent.parent
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
        assert done.returncode == 0, done.stderr
        return log.read_text().count("\n")

    assert requests_after("Be kind.", "1", "yes") == 2
    assert requests_after("Be kind.", "1", "yes") == 2
    assert requests_after("Be rude.", "1", "yes") == 4
    assert requests_after("Be kind.", "0.5", "yes") == 6
    assert requests_after("Be kind.", "1", "no") == 8
    assert requests_after("Be kind.", "1", "yes") == 8


@pytest.mark.parametrize(
    ("columns", "mappings", "hinted"),
    [
        (("instruction", "input", "output"), {}, True),
        (("instruction", "output"), {}, False),
        (("instruction", "input", "generation_metadata"), {}, False),
        (("task", "input"), {"instruction": "task"}, False),
    ],
)
def test_wire_with_unread_input_column_hints_once(columns, mappings, hinted, caplog):
    technique = EvolInstruct(EchoLLM(), name=f"Step{len(columns)}{hinted}", input_mappings=mappings)
    for _ in range(2):
        technique.wire(columns)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * hinted
    assert ["input_mappings={'input': 'input'}" in message for message in caplog.messages] == [True] * hinted


FEATURES = Features({"b": Value("string")})


def lazy(**columns):
    return LazyBatch(pa.table(columns), PythonFormatter())


def test_batch_rows_have_the_techniques_names():
    assert batch_rows({"x": [1, 2], "y": [3, 4]}, {"a": "x"}, 2) == [{"a": 1}, {"a": 2}]


def taken_up(batch):
    return {name: batch[name].to_pylist() for name in batch if not isinstance(batch[name], list)}


def test_merge_columns_keeps_the_type_of_none():
    batch = lazy(a=[1, 2])
    assert merge_columns(batch, [0, 1], {"b": [None, None]}, FEATURES) == {}
    assert batch["b"].type == pa.string()
    assert taken_up(batch) == {"b": [None, None]}


def test_merge_columns_repeats_other_columns():
    batch = lazy(a=[1, 2])
    merge_columns(batch, [0, 1, 1], {"b": ["x", "y", "z"]}, FEATURES)
    assert taken_up(batch) == {"a": [1, 2, 2], "b": ["x", "y", "z"]}


def test_merge_columns_of_a_stream_has_plain_lists():
    assert merge_columns({"a": [1]}, [0], {"b": [None]}, FEATURES) == {"b": [None]}
    assert merge_columns({"a": [1]}, [0, 0], {"b": ["x", "y"]}, FEATURES) == {"a": [1, 1], "b": ["x", "y"]}


def test_map_of_a_batch_that_is_no_dict_raises():
    with pytest.raises(TypeError, match=r"DataFrame.*with_format\(None\)"):
        checked_arguments("X", pd.DataFrame(), [0])


ROWS = Dataset.from_dict({"text": ["tea", "rye"], "stars": [4, 5]})
STEP = TextGeneration(EchoLLM(), template="{{ text }}: {{ stars }} stars")
CALL = {"batched": True, "with_indices": True, "load_from_cache_file": False}


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_map_over_arrays_reads_plain_values(form):
    result = ROWS.with_format(form).map(STEP, **CALL).with_format(None)
    assert result["generation"][:] == ["tea: 4 stars", "rye: 5 stars"]
    twice = result.with_format(form).map(second(), **CALL).with_format(None)
    assert [len(entries) for entries in twice["generation_metadata"]] == [2, 2]


def second():
    return TextGeneration(EchoLLM(), name="Second", template="{{ stars }}", output_mappings={"generation": "b"})


@pytest.mark.parametrize("form", ["pandas", "arrow"])
def test_map_over_a_format_says_to_take_it_off(form):
    with pytest.raises(TypeError, match=r"with_format\(None\)"):
        ROWS.with_format(form).map(STEP, **CALL)


def test_map_over_a_formatted_stream_reads_plain_values():
    stream = ROWS.to_iterable_dataset().with_format("numpy").map(STEP, batched=True, with_indices=True)
    assert [str(row["generation"]) for row in stream] == ["tea: 4 stars", "rye: 5 stars"]


def test_map_with_rank_has_the_same_rows():
    assert ROWS.map(STEP, with_rank=True, **CALL)["generation"][:] == ["tea: 4 stars", "rye: 5 stars"]


def seeds(rows):
    return [row["generation_metadata"][0]["seed"] for row in rows]


@pytest.mark.parametrize("options", [{}, {"with_rank": True}, {"batch_size": 1}])
def test_map_with_split_has_the_rows_of_for_split(options):
    splits = DatasetDict(train=ROWS, test=ROWS).map(STEP, with_split=True, **options, **CALL)
    assert len({*seeds(splits["train"]), *seeds(splits["test"]), *seeds(ROWS.map(STEP, **CALL))}) == 6
    for name, rows in splits.items():
        assert rows.to_list() == ROWS.map(STEP.for_split(name), **CALL).to_list()


def test_map_without_split_has_equal_seeds_in_all_splits():
    splits = DatasetDict(train=ROWS, test=ROWS).map(STEP, **CALL)
    assert seeds(splits["train"]) == seeds(splits["test"]) == seeds(ROWS.map(STEP, **CALL))


def test_map_with_split_of_streams_has_the_same_rows():
    splits = DatasetDict(train=ROWS, test=ROWS)
    streams = IterableDatasetDict({name: rows.to_iterable_dataset() for name, rows in splits.items()})
    options = {"batched": True, "with_indices": True, "with_split": True}
    streamed, mapped = streams.map(STEP, **options), splits.map(STEP, **options)
    assert {name: list(rows) for name, rows in streamed.items()} == {name: list(rows) for name, rows in mapped.items()}


def test_map_with_split_without_indices_names_the_argument():
    with pytest.raises(TypeError, match="with_indices=True"):
        DatasetDict(train=ROWS).map(STEP, batched=True, with_split=True)


def test_map_with_split_counts_raising_rows_of_all_batches():
    """Once a row is completed, eight rows of a later batch may raise."""
    bad = texts("a", *["bad"] * 9)
    splits = DatasetDict(train=bad).map(Raising(EchoLLM()), with_split=True, batch_size=1, **CALL)
    assert splits["train"]["word"][:] == ["a", *[None] * 9]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_columns": ["text"]}, "input_columns"),
        ({"input_columns": "text"}, "input_columns"),
        ({"input_columns": ["text", "stars"]}, "input_columns"),
        ({"input_columns": ["text", "stars"], "with_rank": True}, "input_columns"),
        ({"input_columns": ["text"], "with_indices": False}, "input_columns"),
        ({"input_columns": ["text"], "batched": False}, "input_columns"),
        ({"with_indices": False}, "with_indices=True"),
        ({"with_indices": False, "with_rank": True}, "with_indices=True"),
        ({"batched": False}, "batched=True"),
        ({"batched": False, "with_indices": False}, "batched=True"),
        ({"fn_kwargs": {"temperature": 1}}, "fn_kwargs"),
    ],
)
def test_map_called_otherwise_names_the_argument(arguments, named):
    with pytest.raises(TypeError, match=named):
        ROWS.map(STEP, **{**CALL, **arguments})


@pytest.mark.parametrize("arguments", [{}, {"batched": True}, {"batched": True, "with_indices": True}])
def test_map_of_a_pipeline_says_to_run_it(arguments):
    with pytest.raises(TypeError, match=r"pipeline\.run\(dataset\)"):
        ROWS.map(Pipeline((STEP,)), **arguments)
    with pytest.raises(TypeError, match=r"pipeline\.run\(dataset\)"):
        Pipeline((STEP,))(ROWS)


@dataclass(frozen=True)
class ChatLLM(RepeatingLLM):
    """Answers chats, and neither scores choices nor writes a user's turn."""

    def lacks(self, need):
        return f"it has no {need}"


@pytest.mark.parametrize(
    ("technique", "need"),
    [
        (lambda llm: Magpie(llm), "user turn"),
        (lambda llm: Judge.difficulty(llm), "choices"),
        (lambda llm: InstructionFollowingDifficulty(llm), "choices"),
        (lambda llm: EvolInstruct(llm, eliminate=True), "choices"),
        (lambda llm: Reward(llm), "reward"),
    ],
)
def test_run_refuses_an_llm_that_lacks_a_need_before_any_row(technique, need, tmp_path):
    """The last step of a pipeline too is refused before its first step has cost anything."""
    log = tmp_path / "log"
    llm = ChatLLM(log=str(log))
    rows = Dataset.from_dict({"prompt": ["a"], "instruction": ["a"], "response": ["b"]})
    first = TextGeneration(llm, input_mappings={"instruction": "prompt"})
    last = technique(llm)
    renamed = {name: f"new_{name}" for name in last.output_features}
    last = replace(last, output_mappings=renamed)
    with pytest.raises(GenerationError, match=need):
        (first >> last).run(rows, run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(GenerationError, match=need):
        run(last, rows)
    assert not log.exists()
    assert run(EvolInstruct(llm), rows)["evolved_instruction"][:] == ["ok"], "without a judge, chats are enough"


def test_map_of_two_techniques_in_one_function_chains():
    first = TextGeneration(EchoLLM())
    second = replace(
        first, name="second", input_mappings={"instruction": "generation"}, output_mappings={"generation": "echo"}
    )

    def both(batch, indices):
        first(batch, indices)
        return second(batch, indices)

    rows = Dataset.from_dict({"instruction": ["Hi", "Ho"]}).map(both, batched=True, with_indices=True)
    assert rows["generation"][:] == rows["echo"][:] == ["Hi", "Ho"]
    assert [entry["step"] for entry in rows[0]["generation_metadata"]] == ["TextGeneration", "second"]
