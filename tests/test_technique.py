import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hfsynth import ColumnError, EchoLLM, Request, RowError, Technique, TextGeneration
from hfsynth.metadata import METADATA_ENTRY
from hfsynth.technique import Input
from tests.helpers import ScriptedLLM


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


def run(technique, dataset, **options):
    return dataset.map(technique, batched=True, with_indices=True, **options)


def texts(*values):
    return Dataset.from_dict({"text": list(values)})


def test_rows_may_become_several_and_every_other_column_is_repeated():
    dataset = texts("a b", "c").add_column("kind", [0, 1]).cast_column("kind", ClassLabel(names=["x", "y"]))
    made = run(Split(EchoLLM()), dataset)
    assert made["word"][:] == ["a", "b", "c"]
    assert made["kind"][:] == [0, 0, 1]
    assert made.features["kind"] == ClassLabel(names=["x", "y"])


def test_one_row_that_fails_leaves_the_other_rows_of_its_batch_whole():
    made = run(Split(EchoLLM()), texts("a", "bad", "c"))
    assert made["word"][:] == ["a", None, "c"]
    assert [entries[0]["error"] for entries in made["generation_metadata"]] == ["", "it is bad", ""]
    assert made[1]["generation_metadata"][0]["raw"] == "bad"


def test_a_first_batch_in_which_all_rows_fail_does_not_spoil_the_types_of_the_next():
    made = run(Split(EchoLLM()), texts("bad", "bad", "a", "b"), batch_size=2)
    assert made["word"][:] == [None, None, "a", "b"]
    assert made.features["letters"] == List(Value("string"))


def test_a_last_batch_in_which_all_rows_fail_is_written_too():
    assert run(Split(EchoLLM()), texts("a", "bad"), batch_size=1)["word"][:] == ["a", None]


@pytest.mark.parametrize(("value", "reason"), [(None, "text is None"), ("", "text is empty"), ("  ", "text is empty")])
def test_a_text_that_is_not_there_is_a_recorded_failure_without_a_request(value, reason, tmp_path):
    log = tmp_path / "log"
    made = run(Split(ScriptedLLM(log=str(log))), texts("a", value))
    assert made[-1]["generation_metadata"][0]["error"] == reason
    assert log.read_text().count("\n") == 1


def test_an_empty_batch_makes_empty_columns():
    made = Split(EchoLLM())({"text": []}, [])
    assert made == {"word": [], "letters": [], "generation_metadata": []}


def test_it_runs_on_a_split_of_a_dataset_dict_and_on_the_whole_dict():
    splits = DatasetDict({"train": texts("a"), "test": texts("b", "c")})
    assert run(Split(EchoLLM()), splits["test"])["word"][:] == ["b", "c"]
    assert run(Split(EchoLLM()), splits)["train"]["word"][:] == ["a"]


def test_streaming_makes_the_same_rows():
    dataset = texts("a b", "bad", "c")
    whole = run(Split(EchoLLM()), dataset)
    assert list(run(Split(EchoLLM()), dataset.to_iterable_dataset())) == list(whole)


@pytest.mark.parametrize("values", [("a", "b"), ("bad", "a b"), ("a b", "bad"), ("bad", "bad")])
def test_remove_columns_is_obeyed(values):
    made = run(Split(EchoLLM()), texts(*values), remove_columns=["text"], batch_size=1)
    assert sorted(made.column_names) == ["generation_metadata", "letters", "word"]
    assert len(made) == sum(max(1, len(value.split())) for value in values)


def test_a_dataset_in_numpys_format_is_read_as_any_other():
    made = run(Split(EchoLLM()), texts("a b", "c").with_format("numpy")).with_format(None)
    assert made["word"][:] == ["a", "b", "c"]


def test_every_technique_adds_its_entry_to_a_rows_metadata():
    made = run(Split(EchoLLM()), texts("a b", "c"))
    made = run(TextGeneration(EchoLLM(), input_mappings={"instruction": "word"}), made)
    entries = made[2]["generation_metadata"]
    assert [(entry["step"], entry["row"]) for entry in entries] == [("Split", 1), ("TextGeneration", 2)]
    assert set(entries[0]) == set(METADATA_ENTRY)
    assert entries[0]["model"] == "echo"
    assert entries[0]["seed"] != entries[1]["seed"]


def test_a_missing_column_is_an_error_that_says_how_to_rename_one():
    with pytest.raises(ColumnError, match=r"Split needs column 'text'; the dataset has \['prompt'\].*input_mappings="):
        run(Split(EchoLLM()), Dataset.from_dict({"prompt": ["a"]}))


def test_a_column_of_the_wrong_type_is_an_error_before_anything_is_generated(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ColumnError, match="Split needs text in column 'text', not 7"):
        run(Split(ScriptedLLM(log=str(log))), Dataset.from_dict({"text": [7]}))
    assert not log.exists()


def test_a_column_is_not_replaced_unless_the_mapping_says_so():
    dataset = texts("a").add_column("word", ["old"])
    with pytest.raises(ColumnError, match=r"Split would replace column 'word'.*output_mappings="):
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
def test_an_output_mapping_that_can_not_be_is_an_error(mappings, message):
    with pytest.raises(ValueError, match=message):
        Split(EchoLLM(), **mappings)


def test_an_input_mapping_of_what_is_not_read_is_an_error():
    with pytest.raises(ColumnError, match=r"names \['txt'\]; it reads \['text'\]"):
        run(Split(EchoLLM(), input_mappings={"txt": "a"}), texts("a"))


@pytest.mark.parametrize("options", [{"batched": True}, {"with_indices": True}, {}])
def test_a_map_without_batches_or_indices_is_an_error_that_shows_the_call(options):
    with pytest.raises(TypeError, match=r"batched=True, with_indices=True"):
        texts("a").map(Split(EchoLLM()), **options)


def test_an_llm_that_is_none_is_an_error():
    with pytest.raises(TypeError, match="Split needs an llm such as TransformersLLM"):
        Split("gpt2")


def test_seeds_differ_between_batches_and_don_t_depend_on_the_batch_size():
    dataset = texts(*"abcdef")
    one, two = (run(Split(EchoLLM()), dataset, batch_size=size) for size in (2, 3))
    assert one["generation_metadata"][:] == two["generation_metadata"][:]
    assert len({entries[0]["seed"] for entries in one["generation_metadata"]}) == 6


def test_worker_processes_make_the_same_rows():
    dataset = texts("a b", "c", "d", "e")
    assert run(Split(EchoLLM()), dataset, num_proc=2)[:] == run(Split(EchoLLM()), dataset)[:]


def test_features_are_known_before_anything_runs():
    technique = Split(EchoLLM(), output_mappings={"word": "w"})
    known = technique.check_features(Features({"text": Value("large_string")}))
    assert known == run(technique, texts("a")).features | {"text": Value("large_string")}
    with pytest.raises(ColumnError, match="needs text in column 'text', which holds Value"):
        technique.check_features(Features({"text": Value("int64")}))


MAP_IN_A_PROCESS = """
import sys
from datasets import load_dataset
from hfsynth import SamplingParams, TextGeneration
from tests.helpers import ScriptedLLM

file, log, system_prompt, temperature, reply = sys.argv[1:]
technique = TextGeneration(
    ScriptedLLM(replies=(reply,), log=log),
    system_prompt=system_prompt,
    sampling=SamplingParams(temperature=float(temperature)),
)
dataset = load_dataset("json", data_files=file, split="train")
print(dataset.map(technique, batched=True, with_indices=True)["generation"][:])
"""


def test_the_same_map_in_a_new_process_generates_nothing_and_any_change_generates_again(tmp_path):
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
    technique = TextGeneration(EchoLLM(), name=f"Step{len(columns)}{hinted}", input_mappings=mappings)
    for _ in range(2):
        technique.wire(columns)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * hinted
    assert [r"template='{{ instruction }}\n\n{{ input }}'" in message for message in caplog.messages] == [
        True
    ] * hinted
