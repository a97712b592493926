"""Samplers: shares of categories, constraints, personas, and their place in maps, pipelines, recipes and cards."""

import os
import pickle
from collections import Counter

import pytest
from datasets import Dataset, Features, IterableDataset, Value
from datasets.fingerprint import Hasher

from hfsynth import (
    CategorySampler,
    ColumnError,
    EchoLLM,
    PersonaSampler,
    Pipeline,
    SamplingParams,
    TextGeneration,
    report,
    run,
    save,
)

TOPICS = {"maths": 5.0, "law": 3.0, "cooking": 2.0}
LEVELS = CategorySampler(
    {"topic": TOPICS, "level": {"easy": 1, "hard": 1}},
    weights_by={"level": {"topic": {"law": {"easy": 1, "hard": 4}}}},
)
FORBIDDEN = CategorySampler(
    {"topic": TOPICS, "form": {"proof": 5, "poem": 4, "recipe": 1}},
    weights_by={"tone": {"topic": {name: {"plain": 1, "formal": 4 if name == "law" else 1} for name in TOPICS}}},
    forbidden=(
        {"topic": "law", "form": "recipe"},
        {"topic": "maths", "form": "recipe"},
        {"topic": "maths", "form": "poem", "tone": "formal"},
    ),
)


def rows_of(sampler, count=10_000):
    return Dataset.from_dict({"id": range(count)}).map(sampler, batched=True, with_indices=True)


def shares(rows, *columns):
    counts = Counter(zip(*(rows[column] for column in columns), strict=True))
    return {values if len(columns) > 1 else values[0]: count / len(rows) for values, count in counts.items()}


def test_category_shares_are_the_weights():
    rows = rows_of(LEVELS)
    assert shares(rows, "topic") == pytest.approx({"maths": 0.5, "law": 0.3, "cooking": 0.2}, abs=0.001)
    pairs = {("maths", "easy"): 0.25, ("maths", "hard"): 0.25, ("law", "easy"): 0.06, ("law", "hard"): 0.24}
    pairs |= {("cooking", "easy"): 0.1, ("cooking", "hard"): 0.1}
    assert shares(rows, "topic", "level") == pytest.approx(pairs, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_columns_are_independent_of_each_other(seed):
    names = {f"c{number}": ("a", "b", "c") for number in range(3)}
    found = shares(rows_of(CategorySampler(names, seed=seed)), "c0", "c1", "c2")
    assert len(found) == 27
    assert list(found.values()) == pytest.approx([1 / 27] * 27, abs=0.01)


def test_forbidden_combinations_leave_the_shares():
    rows = rows_of(FORBIDDEN)
    assert shares(rows, "topic") == pytest.approx({"maths": 0.5, "law": 0.3, "cooking": 0.2}, abs=0.01)
    assert shares(rows, "form") == pytest.approx({"proof": 0.5, "poem": 0.4, "recipe": 0.1}, abs=0.01)
    tones = {("maths", "plain"): 0.25, ("maths", "formal"): 0.25, ("law", "plain"): 0.06, ("law", "formal"): 0.24}
    tones |= {("cooking", "plain"): 0.1, ("cooking", "formal"): 0.1}
    assert shares(rows, "topic", "tone") == pytest.approx(tones, abs=0.01)
    assert ("maths", "poem", "formal") not in shares(rows, "topic", "form", "tone")
    assert {topic for topic, form in shares(rows, "topic", "form") if form == "recipe"} == {"cooking"}


def test_forbidden_combinations_may_force_others():
    """Recipes take all of cooking, so that no other form is left for it: the limit of what the shares allow."""
    sampler = CategorySampler(
        {"topic": TOPICS, "form": {"proof": 8, "recipe": 2}},
        forbidden=({"topic": "law", "form": "recipe"}, {"topic": "maths", "form": "recipe"}),
    )
    pairs = {("maths", "proof"): 0.5, ("law", "proof"): 0.3, ("cooking", "recipe"): 0.2}
    found = shares(rows_of(sampler), "topic", "form")
    assert {pair: found[pair] for pair in pairs} == pytest.approx(pairs, abs=0.01)


def test_rows_depend_on_their_index_alone():
    rows = rows_of(LEVELS, 2_500)
    parts = [LEVELS({}, range(first, min(first + 700, 2_500))) for first in range(0, 2_500, 700)]
    assert [topic for part in parts for topic in part["topic"]] == rows["topic"][:]
    assert LEVELS({}, [1234])["level"] == [rows["level"][1234]]
    other = rows_of(CategorySampler({"topic": TOPICS}, seed=1), 2_500)
    assert other["topic"][:] != rows["topic"][:]


def test_pickled_sampler_samples_the_same():
    copy = pickle.loads(pickle.dumps(FORBIDDEN))
    assert copy({}, range(50)) == FORBIDDEN({}, range(50))
    assert Hasher.hash(copy) == Hasher.hash(FORBIDDEN)


def test_weights_may_depend_on_a_column_of_the_dataset():
    sampler = CategorySampler(
        {"register": ("formal", "casual"), "form": ("essay", "tweet")},
        weights_by={"register": {"stars": {5: {"formal": 9, "casual": 1}}}},
        forbidden=({"register": "formal", "form": "tweet"},),
    )
    with pytest.raises(ValueError, match=r"'essay'\} 90\.0% .* 50\.0%"):
        rows_of_stars(sampler, 5)
    assert shares(rows_of_stars(sampler, 3), "register") == pytest.approx({"formal": 0.5, "casual": 0.5}, abs=0.01)
    assert sampler.read_columns == ("stars",)


def rows_of_stars(sampler, stars):
    return Dataset.from_dict({"stars": [stars] * 1_000}).map(sampler, batched=True, with_indices=True)


def test_values_of_a_second_category_need_no_default():
    sampler = CategorySampler(
        {"topic": ("law", "maths")},
        weights_by={"subtopic": {"topic": {"law": ("contracts", "torts"), "maths": ("algebra",)}}},
    )
    pairs = {("law", "contracts"): 0.25, ("law", "torts"): 0.25, ("maths", "algebra"): 0.5}
    assert shares(rows_of(sampler, 4_000), "topic", "subtopic") == pytest.approx(pairs, abs=0.01)


def test_dataset_value_without_weights_is_an_error():
    sampler = CategorySampler(weights_by={"tone": {"lang": {"en": ("plain",)}}})
    with pytest.raises(ColumnError, match=r"'tone' for row 1, .*'lang' is 'ko'.*\['en'\].*weights\['tone'\]"):
        Dataset.from_dict({"lang": ["en", "ko"]}).map(sampler, batched=True, with_indices=True)


NONE_AS_TEXT = {"lang": {"None": ("loud",), "any other value": ("loud",)}}


def test_none_without_weights_is_an_error():
    sampler = CategorySampler(weights_by={"tone": NONE_AS_TEXT})
    with pytest.raises(ColumnError, match=r"'tone' for row 2, .*'lang' is None.*weights\['tone'\]"):
        sampler.split(Dataset.from_dict({"lang": ["None", None]}), first=1)


@pytest.mark.parametrize("forbidden", [(), ({"tone": "plain", "form": "poem"}, {"tone": "loud", "form": "proof"})])
def test_none_has_the_weights_of_values_not_listed(forbidden):
    weights = {"tone": ("plain",), "form": {"proof": 1}}
    by_lang = {"tone": NONE_AS_TEXT, "form": {"lang": {"None": ("poem",), "any other value": ("poem",)}}}
    rows = Dataset.from_dict({"lang": [None, "None", "ko"]})
    sampler = CategorySampler(weights, weights_by=by_lang, forbidden=forbidden)
    sampled = rows.map(sampler, batched=True, with_indices=True)
    assert sampled["tone"][:] == ["plain", "loud", "plain"]
    assert sampled["form"][:] == ["proof", "poem", "proof"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"weights is empty"),
        ({"weights": {"a": "xy"}}, r"weights\['a'\] must be .*, got 'xy'"),
        ({"weights": {"a": {"x": -1}}}, r"weights\['a'\]\['x'\] must be .*, got -1"),
        ({"weights": {"a": {"x": 0}}}, r"weights\['a'\] has no weight above 0"),
        ({"weights": {"a": (1, 2)}}, r"weights\['a'\] must be texts"),
        ({"weights_by": {"a": {"b": {None: ("x",)}}}}, r"weights_by\['a'\]\['b'\] .*None.*weights\['a'\]"),
        ({"weights_by": {"a": {"a": {"x": ("y",)}}}}, r"weights_by\['a'\].*other column"),
        ({"weights": {"a": ("x",)}, "weights_by": {"b": {"a": {"z": ("y",)}}}}, r"names 'z'.* no value of 'a'"),
        ({"weights": {"a": ["x", "z"]}, "weights_by": {"b": {"a": {"z": ("y",)}}}}, r"'a' is 'x'.*weights\['b'\]"),
        ({"weights_by": {"a": {"b": {"y": ("x",)}}, "b": {"a": {"x": ("y",)}}}}, r"each other: '[ab]' → '[ab]'"),
        ({"weights": {"a": ("x",)}, "forbidden": ({"a": "x"},)}, r"forbidden has \{'a': 'x'\}"),
        ({"weights": {"a": ("x",), "b": ("y",)}, "forbidden": ({"a": "x", "c": "y"},)}, r"column 'c'.*\['a', 'b'\]"),
        ({"weights": {"a": ("x",), "b": ("y",)}, "forbidden": ({"a": "x", "b": "z"},)}, r"names 'z'.*\['y'\]"),
        ({"weights": {"a": ("x",), "b": ("y",)}, "forbidden": ({"a": "x", "b": "y"},)}, r"leaves .* 0\.0% .* 100\.0%"),
    ],
)  # fmt: skip
def test_invalid_category_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        CategorySampler(**fields)


def test_too_many_connected_combinations_are_an_error():
    values = tuple(map(str, range(200)))
    with pytest.raises(ValueError, match=r"\['a', 'b'\] with 40,000 combinations; at most 20,000"):
        CategorySampler({"a": values, "b": values}, forbidden=({"a": "1", "b": "2"},))


def test_sampler_of_an_existing_column_is_an_error():
    with pytest.raises(ColumnError, match=r"column 'topic'.*\['id', 'topic'\]"):
        Dataset.from_dict({"id": [1], "topic": ["x"]}).map(LEVELS, batched=True, with_indices=True)
    with pytest.raises(ColumnError, match=r"step 2, CategorySampler_2 .*'topic'"):
        (LEVELS >> LEVELS).features(Features({"id": Value("int64")}))


def test_map_without_indices_is_an_error():
    with pytest.raises(TypeError, match="with_indices=True"):
        Dataset.from_dict({"id": [1]}).map(LEVELS, batched=True)


def test_streamed_rows_are_the_same():
    stream = Dataset.from_dict({"id": range(30)}).to_iterable_dataset()
    assert isinstance(stream, IterableDataset)
    assert [row["topic"] for row in stream.map(LEVELS, batched=True, with_indices=True)] == rows_of(LEVELS, 30)[
        "topic"
    ]


@pytest.fixture
def personas(tmp_path):
    file = tmp_path / "personas.jsonl"
    Dataset.from_dict({"persona": [f"persona {n}" for n in range(10)], "age": list(range(10))}).to_json(file)
    return file


def test_personas_come_once_in_each_pass(personas):
    rows = rows_of(PersonaSampler(personas), 35)
    passes = [rows["persona"][first : first + 10] for first in range(0, 30, 10)]
    assert [len(set(names)) for names in passes] == [10, 10, 10]
    assert passes[0] != passes[1]
    assert rows.column_names == ["id", "persona"]


@pytest.mark.parametrize(
    ("columns", "message"), [(("age",), r"'age'.*\['persona'\]"), (("name",), r"'name'.*\['persona'\]")]
)
def test_persona_column_without_texts_stops_a_run(personas, columns, message):
    pipeline = PersonaSampler(personas, columns=columns) >> TextGeneration(EchoLLM(), template="{{ id }}")
    with pytest.raises(ColumnError, match=message):
        pipeline.run(num_rows=2, quiet=True)


def test_changed_persona_file_changes_the_fingerprint(personas):
    sampler = PersonaSampler(personas)
    before = sampler.fingerprint()
    assert PersonaSampler(personas).fingerprint() == before
    personas.write_text('{"persona": "a baker"}\n')
    assert sampler.fingerprint() != before
    assert set(rows_of(sampler, 3)["persona"]) == {"a baker"}


def test_copied_persona_files_keep_the_fingerprint(personas):
    samplers = PersonaSampler(personas), PersonaSampler(personas.parent)
    before = [sampler.fingerprint() for sampler in samplers]
    os.utime(personas, (1, 1))
    assert [sampler.fingerprint() for sampler in samplers] == before
    status = personas.stat()
    personas.write_text(personas.read_text().replace("persona 7", "persona X"))
    os.utime(personas, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [sampler.fingerprint() == old for sampler, old in zip(samplers, before, strict=True)] == [False, False]


def chain(personas):
    ask = TextGeneration(EchoLLM(), template="As {{ persona }}: a {{ level }} question about {{ topic }}?")
    return LEVELS >> PersonaSampler(personas) >> ask


def test_run_of_num_rows_has_the_rows_of_maps(personas, tmp_path):
    pipeline = chain(personas)
    rows = pipeline.run(num_rows=300, chunk_size=64, run_dir=tmp_path / "run", quiet=True)
    mapped = rows_of(LEVELS, 300)
    for step in pipeline.steps[1:]:
        mapped = mapped.map(step, batched=True, with_indices=True)
    assert rows["generation"][:] == mapped["generation"][:]
    assert rows[7]["generation"] == "As {persona}: a {level} question about {topic}?".format(**rows[7])
    assert "CategorySampler" in pipeline.draw()


def test_recipe_restores_samplers(personas, tmp_path, monkeypatch):
    pipeline = Pipeline((FORBIDDEN, *chain(personas).steps[1:2]))
    text = pipeline.to_yaml()
    assert str(personas.parent) not in text
    monkeypatch.chdir(personas.parent)
    restored = Pipeline.from_yaml(text)
    assert restored.run(num_rows=20, quiet=True).to_list() == pipeline.run(num_rows=20, quiet=True).to_list()


def test_card_has_the_steps_and_weights_of_samplers(personas, tmp_path):
    result = run(chain(personas), num_rows=12, quiet=True)
    save(result.dataset, tmp_path / "out", config_name="questions")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Generated with CategorySampler → PersonaSampler → TextGeneration" in card
    assert "| CategorySampler |  | 12 | 12 | 0 | 0 | 0 |" in card
    assert "cooking: 2.0" in card
    assert "CategorySampler ── level, topic ─▶ TextGeneration (echo)" in card
    assert str(tmp_path) not in card


def test_preview_has_prompts_of_sampled_columns(personas):
    preview = chain(personas).preview(n=2, measured=4, num_rows=50)
    topics = LEVELS({}, range(2))["topic"]
    calls = [row.calls[0].prompt for row in preview.steps[2].rows[:2]]
    assert [topic in prompt for topic, prompt in zip(topics, calls, strict=True)] == [True, True]


@pytest.mark.model
def test_sampled_topics_make_instructions_more_diverse(smollm):
    """Equal rows, seeds and sampling; only the words of the prompt differ."""
    names = ("maths", "law", "cooking", "travel", "health", "history", "music", "gardens", "sport", "money")
    topics = CategorySampler({"topic": names})
    rows = Dataset.from_dict({"topic": ["any topic"] * 32})
    sampling = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=16)
    write = TextGeneration(
        smollm,
        template="Write a question about {{ topic }}. Write nothing else.",
        sampling=sampling,
        keep_truncated=True,
        output_mappings={"generation": "instruction"},
    )
    reports = [
        report(sampled.map(write, batched=True, with_indices=True)) for sampled in (rows, rows_of(topics, len(rows)))
    ]
    comparison = reports[0].compare(reports[1], ("no sampler", "sampler"))
    measures = {line.label: line.cells[0].value for line in comparison.sections()[0].tables[0].lines}
    assert measures["sampler"] > measures["no sampler"]
    assert reports[1].neighbours.similarity.mean < reports[0].neighbours.similarity.mean
