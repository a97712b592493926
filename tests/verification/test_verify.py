"""Datasets that are saved or pushed, changed in one place, and verified; the checks of changed records and cards."""

import json
import random
import re
import shutil
from dataclasses import dataclass

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, concatenate_datasets, load_dataset

from hfsynth import (
    BootstrapInstructions,
    CategorySampler,
    Deduplicate,
    EchoLLM,
    EvolInstruct,
    GenerationError,
    Judge,
    Magpie,
    Pipeline,
    Request,
    SeedPool,
    SelfInstruct,
    Technique,
    TextGeneration,
    WellFormed,
    Where,
    push_to_hub,
    save,
    verify,
)
from hfsynth.publish.hub import load_published_config, load_runs
from hfsynth.technique import Input
from hfsynth.verification.verify import check_card, check_figures, check_files, check_recipe, check_steps
from tests.helpers import RepeatingLLM

pytestmark = pytest.mark.usefixtures("cached_pictures")
LLM = EchoLLM()
ANSWER = TextGeneration(LLM, output_mappings={"generation": "answer"})


@dataclass(frozen=True)
class Halves(Technique):
    """Turns a text into its two halves, in an order that the row's seed picks."""

    def input_features(self, available):
        return {"text": Input.TEXT}

    @property
    def output_features(self):
        return Features({"half": Value("string")})

    def flow(self, row, rng: random.Random):
        completion = yield Request(messages=({"role": "user", "content": row["text"]},))
        middle = len(completion.text) // 2
        halves = [completion.text[:middle], completion.text[middle:]]
        return [{"half": half} for half in rng.sample(halves, 2)]


def numbered(dataset):
    return dataset.add_column("length", [len(text) for text in dataset["text"]])


def first_ten(dataset):
    return dataset.select(range(10))


def texts(count, column="text"):
    return Dataset.from_dict({column: [f"The text of number {number} is here." for number in range(count)]})


def saved(dataset, tmp_path, **options):
    save(dataset, tmp_path / "saved", config_name="c", **options)
    return tmp_path / "saved"


def run(pipeline, dataset, **options):
    return pipeline.run(dataset, quiet=True, **options)


def rewrite_rows(folder, change):
    """Change the rows of a saved dataset and nothing else."""
    file = folder / "c/train-00000-of-00001.parquet"
    rows = Dataset.from_parquet(str(file), cache_dir=str(folder.parent / "rewriting"))
    rows.map(change, with_indices=True, features=rows.features).to_parquet(file)


def test_verify_chain_with_filters_finds_all_rows_equal(tmp_path):
    source = concatenate_datasets([Dataset.from_dict({"text": ["", "ab", "ab"]}), texts(6)])
    halves = Halves(LLM, output_mappings={"half": "instruction"})
    chain = WellFormed(column="text") >> halves >> Deduplicate() >> TextGeneration(LLM) >> Judge.quality(LLM)
    dataset = run(chain, source)
    found = verify(str(saved(dataset, tmp_path)), rows=9, own=[Halves])
    assert found.rows.equal == len(found.rows.rows) == 9
    assert found.exit_status == 0
    assert set(found.rows.columns) == {"instruction", "generation", "quality", "quality_probabilities"}
    assert found.rows.skipped == ("Deduplicate",)
    assert "9 of 9 rows are equal (not repeated: Deduplicate)" in found.verdict
    for row in found.rows.rows:
        assert source[row.source_row]["text"] == dataset[row.row]["text"]
        assert row.seed == dataset[row.row]["generation_metadata"][0]["seed"]


def test_verify_evolved_rows_of_one_column_are_equal(tmp_path):
    chain = Halves(LLM) >> EvolInstruct(
        LLM,
        num_evolutions=2,
        input_mappings={"instruction": "half"},
        output_mappings={"evolved_instruction": "half"},
    )
    found = verify(str(saved(run(chain, texts(8)), tmp_path)), rows=10, own=[Halves])
    assert found.rows.equal == 10


def test_verify_magpie_without_input_is_equal(tmp_path):
    chain = Pipeline((Magpie(LLM, system_prompt={"a": "A.", "b": "B."}, n_turns=2),))
    found = verify(str(saved(run(chain, None, num_rows=6), tmp_path)), rows=6)
    assert (found.rows.equal, found.exit_status) == (6, 0)


def test_verify_map_result_needs_its_steps(tmp_path):
    first = SelfInstruct(RepeatingLLM(replies=("1. Say yes.\n2. Say no.",)), num_instructions=2)
    answer = TextGeneration(LLM)
    rows = texts(5, "input").map(first, batched=True, with_indices=True).map(answer, batched=True, with_indices=True)
    folder = saved(rows, tmp_path)
    found = verify(str(folder))
    assert "SelfInstruct" in found.not_remade
    assert "steps=" in found.not_remade
    assert (found.is_as_recorded, found.exit_status) == (True, 1)
    saved(rows, tmp_path, steps=[first, answer])
    found = verify(str(folder), rows=10, own=[RepeatingLLM])
    assert (found.rows.equal, found.exit_status) == (10, 0)
    assert found.rows.origins == ("the dataset's own columns",)


def test_verify_bootstrapping_remakes_the_prompts(tmp_path):
    replies = tuple(f"9. Do {word}.\n10. Undo {word}." for word in "abcdefgh")
    pool = SeedPool(seeds=tuple(f"Say {n}." for n in range(9)), round_size=3)
    dataset = run(Pipeline((BootstrapInstructions(RepeatingLLM(replies=replies)),)), pool, num_rows=18)
    # a scripted llm answers by the place in its batch: rows are compared by their prompts alone
    found = verify(str(saved(dataset, tmp_path)), rows=18, own=[RepeatingLLM])
    assert all("examples" not in row.remade.differences for row in found.rows.rows)
    assert found.rows.origins == ("SeedPool",)


def test_verify_dataset_dict_selects_rows_of_all_splits(tmp_path):
    chain = Pipeline((ANSWER,))
    both = DatasetDict(
        train=run(chain, texts(4, "instruction")), test=run(chain, texts(9, "instruction").select(range(4, 9)))
    )
    found = verify(str(saved(both, tmp_path)), rows=9)
    assert found.rows.equal == 9
    assert [(row.split, row.row) for row in found.rows.rows] == [
        *(("test", place) for place in range(5)),
        *(("train", place) for place in range(4)),
    ]


def of_splits(count):
    return DatasetDict(train=texts(count), test=texts(count))


def test_verify_run_of_splits_remakes_rows_of_all(tmp_path):
    """The index of a row in the sampler's input depends on the dropped rows of its own split alone."""
    splits = of_splits(6)
    splits["test"] = concatenate_datasets([Dataset.from_dict({"text": ["", ""]}), splits["test"]])
    topics = CategorySampler({"topic": ("maths", "law", "tea")})
    chain = WellFormed(column="text") >> topics >> Halves(LLM) >> Magpie(LLM, only_instruction=True)
    folder = saved(run(chain, splits), tmp_path)
    found = verify(str(folder), rows=24, own=[Halves])
    assert (found.rows.equal, found.exit_status) == (24, 0), str(found)
    assert [row.source_row for row in found.rows.rows if row.split == "test"] == [n // 2 + 2 for n in range(12)]
    card = (folder / "README.md").read_text()
    assert "| train | 12 | 0 |\n| test | 12 | 2 |" in card
    assert "Halves (run 2, test)" in card
    rewrite_rows(folder, lambda row, place: {**row, "half": "x" if place == 0 else row["half"]})
    assert verify(str(folder), rows=0).exit_status == 4


@pytest.mark.parametrize("with_split", [True, False])
def test_verify_map_of_splits_remakes_rows_of_all(with_split, tmp_path):
    magpie = Magpie(LLM, only_instruction=True)
    step = TextGeneration(LLM, name="Answer")
    mapped = of_splits(3).map(magpie, batched=True, with_indices=True, with_split=with_split)
    mapped = mapped.map(step, batched=True, with_indices=True, with_split=with_split)
    assert (mapped["train"]["instruction"][:] != mapped["test"]["instruction"][:]) is with_split
    folder = str(saved(mapped, tmp_path, steps=[magpie, step]))
    found = verify(folder, rows=6)
    assert (found.rows.equal, found.exit_status) == (6, 0), str(found)
    assert [load_runs(folder, "c", name)[0].split for name in mapped] == (
        ["train", "test"] if with_split else ["", ""]
    )


def test_verify_seed_selects_the_rows(tmp_path):
    folder = str(saved(run(Pipeline((ANSWER,)), texts(60, "instruction")), tmp_path))
    chosen = [[row.row for row in verify(folder, rows=5, seed=seed).rows.rows] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_verify_two_runs_in_succession_is_one_chain(tmp_path):
    first = run(Pipeline((Halves(LLM),)), texts(5)).select([1, 4, 5, 8])
    second = run(Pipeline((TextGeneration(LLM, input_mappings={"instruction": "half"}),)), first)
    found = verify(str(saved(second, tmp_path)), own=[Halves])
    assert found.rows.equal == 4
    assert [row.source_row for row in found.rows.rows] == [0, 2, 2, 4]


def test_verify_rows_of_two_runs_uses_each_recipe(tmp_path):
    runs = [run(Pipeline((Magpie(LLM, seed=seed),)), None, num_rows=3) for seed in (1, 2)]
    found = verify(str(saved(concatenate_datasets(runs), tmp_path)))
    assert found.rows.equal == 6


def test_verify_samplers_use_the_index_of_their_input(tmp_path):
    topics = CategorySampler({"topic": ("maths", "law", "tea"), "level": {"easy": 3, "hard": 1}}, seed=3)
    ask = TextGeneration(LLM, template="{{ topic }}, {{ level }}: {{ text }}")
    source = concatenate_datasets([Dataset.from_dict({"text": ["", "ab"]}), texts(8)])
    chain = WellFormed(column="text") >> topics >> Where("topic", among=("maths", "tea")) >> ask
    dataset = run(chain, source)
    found = verify(str(saved(dataset, tmp_path)))
    assert found.rows.equal == len(dataset) > 2
    assert {"topic", "level"} <= set(found.rows.columns)
    assert [source[row.source_row]["text"] for row in found.rows.rows] == dataset["text"][:]


def test_verify_functions_of_the_dataset_are_applied(tmp_path):
    chain = Pipeline((first_ten, Halves(LLM), numbered))
    found = verify(str(saved(run(chain, texts(12)), tmp_path)), rows=20, own=[Halves, numbered, first_ten])
    assert found.rows.equal == 20
    assert "length" in found.rows.columns
    assert [note for note in found.rows.notes if "first_ten" in note]
    assert {row.source_row for row in found.rows.rows} == {None}


def test_verify_changed_text_is_found(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(30, "instruction")), tmp_path)
    rewrite_rows(folder, lambda row, place: {"answer": row["answer"].replace("here", "her")} if place == 7 else {})
    found = verify(str(folder), rows=30)
    assert (found.rows.equal, found.exit_status) == (29, 4)
    (changed,) = (row for row in found.rows.rows if not row.remade.is_equal)
    assert changed.row == 7
    assert list(changed.remade.differences) == ["answer"]
    assert "character 27" in changed.remade.differences["answer"]
    assert {check.subject for check in found.checks if check.differences} == {"files", "figures"}


def test_verify_changed_seed_is_found(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)

    def change(row, place):
        return {"generation_metadata": [{**row["generation_metadata"][0], "seed": 5}]} if place == 1 else {}

    rewrite_rows(folder, change)
    found = verify(str(folder))
    assert found.rows.equal == 2
    assert "5" in found.rows.rows[1].remade.problem


def test_verify_other_model_differs_without_contradiction(tmp_path):
    answer = TextGeneration(RepeatingLLM(replies=("One.", "Two.")))
    dataset = run(Pipeline((answer,)), texts(2, "instruction")).select([1])
    found = verify(str(saved(dataset, tmp_path)), own=[RepeatingLLM])
    assert found.is_as_recorded
    assert (found.rows.equal, found.exit_status) == (0, 3)
    assert found.rows.rows[0].remade.differences["generation"] == "from character 0 on: 'Two.', remade 'One.'"
    assert found.rows.promise == "chunk"
    assert "seeded, not bitwise" in found.verdict


@pytest.mark.parametrize("number", ["rows", "seed"])
def test_verify_negative_number_names_it(tmp_path, number):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    with pytest.raises(ValueError, match=f"{number} .*-1"):
        verify(str(folder), **{number: -1})


def test_verify_columns_of_the_source_count_if_compared(tmp_path):
    source = texts(4, "instruction")
    source.to_json(tmp_path / "texts.jsonl")
    folder = str(saved(run(Pipeline((ANSWER,)), source), tmp_path))
    assert verify(folder).rows.columns == ("answer",)
    assert verify(folder, source=str(tmp_path / "texts.jsonl")).rows.columns == ("instruction", "answer")


def test_verify_splits_of_mapped_rows_count_separately(tmp_path):
    """The first split's record equals the second one's, since both have three rows of as many tokens."""
    mapped = texts(6, "instruction").map(ANSWER, batched=True, with_indices=True)
    folder = saved(mapped.train_test_split(0.5, seed=0), tmp_path, steps=[ANSWER])
    found = verify(str(folder))
    assert (found.rows.equal, found.exit_status) == (6, 0)
    assert sorted(row.source_row for row in found.rows.rows) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("change", ["missing", "cut", "failures"])
def test_verify_unreadable_rows_are_a_difference(tmp_path, change):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    file = folder / "c/train-00000-of-00001.parquet"
    if change == "failures":  # a file of other columns
        (folder / "c/failures").mkdir()
        (folder / "c/failures/train.parquet").write_bytes(file.read_bytes())
    else:
        content = file.read_bytes()
        file.unlink() if change == "missing" else file.write_bytes(content[:-9])
    found = verify(str(folder))
    assert (found.exit_status, found.rows) == (4, None)
    assert [check.subject for check in found.checks if check.differences] == ["files", "figures"]
    assert "train" in found.not_remade


def test_verify_damaged_pages_are_a_difference(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    file = folder / "c/train-00000-of-00001.parquet"
    content = file.read_bytes()
    file.write_bytes(b"PAR1" + bytes(400) + content[404:])  # the footer stays
    assert verify(str(folder)).exit_status == 4


def test_verify_added_file_of_a_split_is_found(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    file = folder / "c/train-00000-of-00001.parquet"
    (folder / "c/train-more.parquet").write_bytes(file.read_bytes())
    (folder / "c/notes.txt").write_text("My notes.")
    files = next(check for check in verify(str(folder), rows=0).checks if check.subject == "files")
    assert len(files.differences) == 1
    assert "train-more.parquet" in files.differences[0]


def test_verify_recipe_that_is_no_yaml_is_found(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    (folder / "c/hfsynth.yaml").write_text("steps: [")
    found = verify(str(folder))
    assert {check.subject for check in found.checks if check.differences} == {"files", "recipes"}


def test_verify_bug_of_a_technique_is_raised(tmp_path):
    folder = saved(run(Pipeline((Halves(LLM),)), texts(3)), tmp_path)

    @dataclass(frozen=True)
    class Broken(Halves):
        def input_features(self, available):
            raise ValueError("a bug")

    Broken.__name__ = "Halves"
    with pytest.raises(ValueError, match="a bug"):
        verify(str(folder), own=[Broken])


def test_verify_failing_row_states_the_reason(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    record = folder / "c/hfsynth.json"
    changed = json.loads(record.read_text())
    changed["splits"][0]["runs"][0]["steps"][0]["recipe"]["sampling"]["max_new_tokens"] = 2
    record.write_text(json.dumps(changed))
    found = verify(str(folder))
    assert found.rows.equal == 0
    assert "cut off" in found.rows.rows[0].remade.problem
    assert {check.subject for check in found.checks if check.differences} == {"recipes", "card"}


def test_verify_without_rows_loads_no_model(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(3, "instruction")), tmp_path)
    found = verify(str(folder), rows=0)
    assert (found.rows, found.not_remade, found.exit_status) == (None, "", 0)


def test_verify_code_of_a_model_runs_for_a_named_model_alone(tmp_path):
    folder = saved(run(Pipeline((ANSWER,)), texts(2, "instruction")), tmp_path)
    record = json.loads((folder / "c/hfsynth.json").read_text())
    llm = {"__class__": "TransformersLLM/2", "model": "user/model", "trust_remote_code": True}
    record["splits"][0]["runs"][0]["steps"][0]["recipe"]["llm"] = llm
    (folder / "c/hfsynth.json").write_text(json.dumps(record))
    found = verify(str(folder))
    assert "--model" in found.not_remade
    with pytest.raises(GenerationError, match="missing"):
        verify(str(folder), model=str(tmp_path / "missing"))


def test_verify_missing_class_names_it(tmp_path):
    folder = saved(run(Pipeline((Halves(LLM),)), texts(3)), tmp_path)
    found = verify(str(folder))
    assert "Halves" in found.not_remade
    assert "--import" in found.not_remade
    assert found.exit_status == 1


def test_verify_rows_without_entries_are_left_out(tmp_path):
    generated = run(Pipeline((ANSWER,)), texts(4, "instruction"))
    written = Dataset.from_dict(
        {"instruction": ["By hand."], "answer": ["Yes."], "generation_metadata": [[]]}, features=generated.features
    )
    found = verify(str(saved(concatenate_datasets([generated, written]), tmp_path)))
    assert (len(found.rows.rows), found.rows.equal) == (4, 4)
    assert [note for note in found.rows.notes if "1 row " in note]


def test_verify_media_and_added_columns_are_not_compared(tmp_path):
    rows = run(Pipeline((ANSWER,)), texts(2, "instruction"))
    picture = {"bytes": b"no picture", "path": None}
    rows = rows.add_column("picture", [picture, picture]).cast_column("picture", Image()).add_column("n", [1, 2])
    found = verify(str(saved(rows, tmp_path)))
    assert (found.rows.equal, found.exit_status) == (2, 0)
    assert found.rows.columns == ("answer",)
    assert [note for note in found.rows.notes if note.endswith(": n")]


def test_verify_plain_rows_have_nothing_to_remake(tmp_path):
    found = verify(str(saved(Dataset.from_dict({"instruction": ["a", "b"]}), tmp_path)))
    assert found.is_as_recorded
    assert "generation_metadata" in found.not_remade


def test_verify_after_push_reads_source_from_hub(hub, tmp_path):
    source = Dataset.from_dict({"instruction": [f"Say {number}." for number in range(9)], "n": range(9)})
    source.push_to_hub("user/source")
    rows = load_dataset("user/source", split="train", cache_dir=str(tmp_path / "cache"))
    dropped = run(WellFormed() >> ANSWER, rows)
    push_to_hub(dropped, "user/answers", config_name="c")
    found = verify("user/answers", rows=9)
    assert found.commit == hub.dataset("user/answers").commits[-1][0]
    assert (found.rows.equal, found.exit_status) == (9, 0)
    assert found.rows.origins == ("user/source",)
    push_to_hub(run(Pipeline((ANSWER,)), rows.select([5, 3])), "user/selected")
    found = verify("user/selected")
    assert [row.source_row for row in found.rows.rows] == [5, 3]


def test_verify_source_gives_dropped_columns(tmp_path):
    source = texts(6)
    source.to_json(tmp_path / "texts.jsonl")
    dataset = run(Pipeline((Halves(LLM),)), source).remove_columns("text")
    folder = saved(dataset, tmp_path)
    found = verify(str(folder), own=[Halves])
    assert "text" in found.not_remade
    found = verify(str(folder), rows=12, own=[Halves], source=str(tmp_path / "texts.jsonl"))
    assert found.rows.equal == 12


def test_verify_training_format_is_repeated(tmp_path):
    source = texts(4, "instruction")
    source.to_json(tmp_path / "texts.jsonl")
    dataset = run(Pipeline((TextGeneration(LLM),)), source)
    folder = saved(dataset, tmp_path, format="prompt-completion")
    found = verify(str(folder), source=str(tmp_path / "texts.jsonl"))
    assert (found.rows.equal, found.exit_status) == (4, 0)
    assert set(found.rows.columns) == {"prompt", "completion"}


@pytest.mark.parametrize("config", [None, "d"])
def test_verify_unnamed_configuration_lists_them(tmp_path, config):
    rows = run(Pipeline((ANSWER,)), texts(2, "instruction"))
    save(rows, tmp_path / "s", config_name="a")
    save(rows, tmp_path / "s", config_name="b")
    with pytest.raises(ValueError, match="a, b"):
        verify(str(tmp_path / "s"), config)


def test_verify_folder_without_record_names_the_file(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(ValueError, match=r"hfsynth\.json.*steps="):
        verify(str(tmp_path / "s"))


def test_verify_name_without_user_asks_no_hub():
    with pytest.raises(ValueError, match=r"'results'.*user/results"):
        verify("results")


CHECKS = (check_files, check_figures, check_steps, check_recipe, check_card)
ANSWERS = WellFormed() >> TextGeneration(EchoLLM(), output_mappings={"generation": "answer"})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two splits of one configuration beside another one, with failed and dropped rows."""
    folder = tmp_path_factory.mktemp("original") / "data"
    run_dir = tmp_path_factory.mktemp("run")
    train = Dataset.from_dict({"instruction": ["Say hello.", "", "Name a colour.", "Name a fruit.", None]})
    test = Dataset.from_dict({"instruction": ["Say goodbye."]})
    splits = {
        name: ANSWERS.run(rows, run_dir=run_dir, quiet=True) for name, rows in {"train": train, "test": test}.items()
    }
    save(DatasetDict(splits), folder, config_name="both")
    save(test, folder, config_name="plain")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def differences(folder, config="both"):
    published = load_published_config(str(folder), config)
    return {found.subject: found.differences for found in (check(published) for check in CHECKS) if found.differences}


def edit(file, pattern, text):
    before = file.read_text()
    after = re.sub(pattern, text, before, count=1)
    assert after != before
    file.write_text(after)


@pytest.mark.parametrize("config", ["both", "plain"])
def test_checks_of_unchanged_dataset_find_nothing(folder, config):
    assert differences(folder, config) == {}


def test_checks_of_renamed_folder_find_nothing(folder):
    assert differences(folder.rename(folder.with_name("renamed"))) == {}


def test_checks_count_their_comparisons(folder):
    published = load_published_config(str(folder), "both")
    counts = {check.subject: check.compared for check in (check(published) for check in CHECKS)}
    assert counts["files"] == len(list((folder / "both").rglob("*.*"))) - 1
    assert counts["figures"] > 60
    assert counts["card"] > 100
    assert counts["recipes"] == 2


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("steps.png", b"x"),
        ("failures/train.parquet", None),
        ("train-00000-of-00001.parquet", b""),
        ("test-1.txt", b""),
    ],
)
def test_files_changed_or_missing_are_named(folder, file, damage):
    path = folder / "both" / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    published = load_published_config(str(folder), "both")
    found = check_files(published).differences
    assert [file in text for text in found] == ([] if file == "test-1.txt" else [True])


def test_files_of_record_without_checksums_are_noted(folder):
    edit(folder / "both/hfsynth.json", r'"checksums": \{[^}]*\}', '"checksums": {}')
    found = check_files(load_published_config(str(folder), "both"))
    assert (found.compared, found.differences) == (0, ())
    assert found.note


def test_figures_damaged_file_is_an_error(folder):
    (folder / "both/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="train-00000-of-00001"):
        check_figures(load_published_config(str(folder), "both"))


@pytest.mark.parametrize(
    ("pattern", "text", "name"),
    [
        (r'"median": 13', '"median": 14', "train.figures.instruction.lengths.median"),
        (r'"rows": 3', '"rows": 4', "train.rows"),
        (r'"failures": 2,', '"failures": 0,', "train.failures"),
        (r'"Name a colour\."', '"Name a color."', "train.samples"),
        (r'"num_examples": 3', '"num_examples": 2', "info.splits"),
    ],
)
def test_figures_changed_in_the_record_are_named(folder, pattern, text, name):
    edit(folder / "both/hfsynth.json", pattern, text)
    found = differences(folder)
    assert [name in line for line in found["figures"]] == [True]
    assert "card" in found


@pytest.mark.parametrize("name", ["completion_tokens", "prompt_tokens", "rows_out"])
def test_steps_with_too_few_in_the_record_are_named(folder, name):
    record = json.loads((folder / "both/hfsynth.json").read_text())
    record["splits"][0]["runs"][0]["steps"][1][name] -= 1
    (folder / "both/hfsynth.json").write_text(json.dumps(record))
    (line,) = differences(folder)["steps"]
    assert name.replace("_", " ") in line


def test_steps_with_other_drops_are_named(folder):
    record = json.loads((folder / "both/hfsynth.json").read_text())
    record["splits"][0]["runs"][0]["steps"][0]["stopped"] = {"empty": 2, "": 3}
    (folder / "both/hfsynth.json").write_text(json.dumps(record))
    (line,) = differences(folder)["steps"]
    assert "WellFormed: 2 rows" in line


def test_recipe_of_other_seed_is_named(folder):
    edit(folder / "both/hfsynth.yaml", "seed: 0", "seed: 1")
    assert set(differences(folder)) == {"files", "recipes"}


def test_recipe_of_other_version_has_the_same_steps(folder):
    edit(folder / "both/hfsynth.yaml", "^hfsynth: .*", "hfsynth: 0.0.9")
    assert set(differences(folder)) == {"files"}


def test_card_edited_in_its_part_is_named(folder):
    edit(folder / "README.md", r"4 rows\. Generated", "40 rows. Generated")
    found = differences(folder)
    assert set(found) == {"card"}
    assert "40 rows" in found["card"][0]


def test_card_edited_header_is_named(folder):
    edit(folder / "README.md", "num_examples: 3", "num_examples: 33")
    assert set(differences(folder)) == {"card"}


def test_card_with_text_of_the_user_is_as_recorded(folder):
    edit(folder / "README.md", "# data", "# My data\n\nText of my own.")
    edit(folder / "README.md", "^---", "---\npretty_name: Mine")
    assert differences(folder) == {}


def test_card_without_its_part_is_one_difference(folder):
    (folder / "README.md").write_text("# data\n")
    assert len(differences(folder)["card"]) == 1


@pytest.mark.parametrize("line", ["dataset = load_dataset('x')", "dataset = load_dataset()"])
def test_check_card_edited_loading_line_is_a_difference(folder, line):
    edit(folder / "README.md", r"(?m)^dataset = load_dataset\(.*$", line)
    (difference,) = check_card(load_published_config(str(folder), "both")).differences
    assert repr(line) in difference
