"""Texts that were cut off: rows of them fail, unless a technique keeps them."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset, Features, Value

from hfsynth import EvolInstruct, Magpie, Pipeline, Request, Technique, TextGeneration, report, split_failures
from hfsynth.run_record import records
from hfsynth.technique import Input
from tests.helpers import ScriptedLLM

CUT = ScriptedLLM(("Tea is a drink that",), finish_reason="length")
REASON = "the response was cut off after 2 tokens (raise max_new_tokens, or set keep_truncated=True)"
ROWS = Dataset.from_dict({"instruction": ["What is tea?", "Who drinks it?"]})


def run(technique, rows=ROWS):
    return rows.map(technique, batched=True, with_indices=True)


def entry(row):
    return row["generation_metadata"][-1]


def test_text_generation_cut_off_fails_its_row_with_the_text():
    made = run(TextGeneration(CUT))
    assert made["generation"][:] == [None, None]
    assert [entry(row)["error"] for row in made] == [REASON] * 2
    assert [entry(row)["raw"] for row in made] == ["Tea is a drink that"] * 2
    assert [entry(row)["truncated"] for row in made] == [False, False]
    rows, failures = split_failures(made)
    assert (len(rows), failures["reason"][:]) == (0, [REASON] * 2)


def test_text_generation_keeps_what_was_cut_off_where_asked():
    made = run(TextGeneration(CUT, keep_truncated=True))
    assert made["generation"][:] == ["Tea is a drink that"] * 2
    assert [(entry(row)["error"], entry(row)["truncated"]) for row in made] == [("", True)] * 2


def test_text_generation_that_ended_is_not_marked():
    made = run(TextGeneration(ScriptedLLM(("Tea is a drink.",)), keep_truncated=True))
    assert [entry(row)["truncated"] for row in made] == [False, False]


@pytest.mark.parametrize("keep", [False, True])
def test_magpie_response_cut_off_fails_in_any_turn(keep):
    """The user's turns end by themselves, the answers don't."""
    llm = ByRole()
    for technique in (Magpie(llm, keep_truncated=keep), Magpie(llm, n_turns=2, keep_truncated=keep)):
        made = run(technique, Dataset.from_dict({"id": range(2)}))
        assert [entry(row)["error"] for row in made] == [REASON if not keep else ""] * 2
        assert [entry(row)["truncated"] for row in made] == [keep] * 2


class ByRole(ScriptedLLM):
    """Ends the user's turns, and cuts the assistant's off."""

    def complete(self, requests):
        ends = ("stop" if request.role == "user" else "length" for request in requests)
        return [replace(self._reply("So it is"), finish_reason=end) for end in ends]


@pytest.mark.parametrize("keep", [False, True])
def test_evol_instruct_answer_cut_off_fails_unless_kept(keep):
    made = run(EvolInstruct(CUT, num_evolutions=0, generate_answers=True, keep_truncated=keep))
    assert made["answer"][:] == (["Tea is a drink that"] if keep else [None]) * 2
    assert ["cut off" in entry(row)["error"] for row in made] == [not keep] * 2
    assert [entry(row)["truncated"] for row in made] == [keep] * 2


@pytest.mark.parametrize("group", [False, True])
def test_generations_one_cut_off_fails_row(group):
    """Rows with a generation that was cut off fail with all their texts, and count for no `num_rows`."""
    step = TextGeneration(OneOfTwo(), num_generations=2, group_generations=group)
    made = run(step)
    assert made["generation"][:] == [None] * 2
    assert [entry(row)["error"].split(" cut off")[0] for row in made] == ["1 of 2 generations were"] * 2
    assert [json.loads(entry(row)["raw"]) for row in made] == [["Tea is a drink.", "Tea is a"]] * 2
    kept = run(replace(step, keep_truncated=True))
    assert [entry(row)["truncated"] for row in kept] == [True] * len(kept)
    assert len(kept) == (2 if group else 4)


class Own(Technique):
    """A technique of a user's, whose flow looks at no finish reason."""

    def input_features(self, available):
        return {"instruction": Input.TEXT}

    @property
    def output_features(self):
        return Features({"response": Value("string")})

    def flow(self, row, rng):
        completion = yield Request(messages=({"role": "user", "content": row["instruction"]},))
        return {"response": completion.text}


def test_own_technique_cut_off_fails_by_default():
    made = run(Own(CUT))
    assert made["response"][:] == [None] * 2
    assert [entry(row)["raw"] for row in made] == ["Tea is a drink that"] * 2


class OneOfTwo(ScriptedLLM):
    """Ends the first of a row's two answers: its rows ask one after the other."""

    def complete(self, requests):
        count = _CALLS.setdefault(self, [0])
        count[0] += 1
        text, end = ("Tea is a drink.", "stop") if count[0] % 2 else ("Tea is a", "length")
        return [replace(self._reply(text), finish_reason=end) for _ in requests]


_CALLS: dict = {}


def test_truncated_rows_are_counted_in_record_and_report(tmp_path):
    made = Pipeline((TextGeneration(CUT, keep_truncated=True),)).run(ROWS, run_dir=tmp_path / "run", quiet=True)
    assert records(made)[0].steps[0].truncated == 2
    assert report(made).steps[0].truncated == 2
