import statistics
from collections import Counter

import pytest
from datasets import Dataset

from hfsynth import Deduplicate, Pipeline, SelfInstruct, TextGeneration
from hfsynth.analysis.report import funnel_of, steps_of
from tests.helpers import ScriptedLLM

ASKS = ScriptedLLM(
    ("What is tea made of?\nWhy do cats purr?", "Name a river.\nName a lake.", "!tired", "Name 7 seas.")
)
ANSWERS = ScriptedLLM(("Water.", "!odd", "Да.", "Water and leaves."))


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """What each of two techniques and a filter between them made."""
    texts = Dataset.from_dict({"input": [f"text {n}" for n in range(12)]})
    asked = Pipeline((SelfInstruct(ASKS, num_instructions=2),))
    answer = TextGeneration(ANSWERS, output_mappings={"generation": "response"})
    options = {"run_dir": tmp_path_factory.mktemp("run"), "quiet": True, "chunk_size": 5}
    chain = (asked, asked >> Deduplicate(), asked >> Deduplicate() >> answer)
    return [texts, *(pipeline.run(texts, **options) for pipeline in chain)]


@pytest.fixture
def made(stages):
    return stages[-1]


def entries(dataset, place):
    """The entries of a step, one for each row of its input on which no step before failed."""
    rows = [row["generation_metadata"] for row in dataset]
    reached = [history for history in rows if not any(entry["error"] for entry in history[:place])]
    return {history[place]["row"]: history[place] for history in reached}.values()


def whole(dataset):
    """How many rows no step failed on."""
    return len(dataset.filter(lambda row: not any(entry["error"] for entry in row["generation_metadata"])))


def fresh_failures(dataset, place):
    """Reason → rows on which a step failed and none before."""
    found = {}
    for row in dataset:
        *before, entry = row["generation_metadata"][: place + 1]
        if entry["error"] and not any(one["error"] for one in before):
            found[entry["row"]] = entry["error"]
    return Counter(found.values())


def test_tokens_ends_and_failures_are_those_of_the_rows_metadata_counted_one_by_one(made):
    for place, found in enumerate(steps_of(made)):
        mine = list(entries(made, place))
        assert found.name == ("SelfInstruct", "TextGeneration")[place]
        assert found.rows == len(mine)
        assert found.tokens_read == sum(entry["prompt_tokens"] for entry in mine)
        assert found.tokens_written == sum(entry["completion_tokens"] for entry in mine)
        tokens = [entry["completion_tokens"] for entry in mine]
        assert found.written.median == statistics.median_low(tokens)
        assert found.written.mean == pytest.approx(statistics.fmean(tokens))
        assert found.finish_reasons == Counter(entry["finish_reason"] for entry in mine if entry["finish_reason"])
        assert found.failures == fresh_failures(made, place)
        assert sum(found.failures.values()) > 0


def test_the_funnel_says_what_each_step_was_given_and_dropped(stages):
    texts, asked, kept, answered = stages
    funnel = funnel_of(answered)
    assert [(stage.run, stage.name) for stage in funnel] == [
        (1, "SelfInstruct"),
        (1, "Deduplicate"),
        (1, "TextGeneration"),
    ]
    assert [stage.rows_in for stage in funnel] == [len(texts), whole(asked), whole(kept)]
    assert [stage.rows_out for stage in funnel] == [whole(asked), whole(kept), whole(answered)]
    assert [stage.dropped for stage in funnel] == [0, len(asked) - len(kept), 0]
    failed = [sum(fresh_failures(asked, 0).values()), 0, sum(fresh_failures(answered, 1).values())]
    assert [stage.failed for stage in funnel] == failed
    texts = [text for text in asked["instruction"] if text]
    assert [stage.rules for stage in funnel] == [{}, {"duplicate": len(texts) - len(set(texts))}, {}]


def test_rows_that_no_step_made_have_no_steps_and_no_funnel():
    rows = Dataset.from_dict({"instruction": ["a"]})
    assert (steps_of(rows), funnel_of(rows)) == ((), ())
