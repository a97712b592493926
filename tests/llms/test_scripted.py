"""The public llm for users' tests: replies in order, by a function, and through pickling and `Dataset.map`."""

import pickle

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import Completion, Judge, Request, RunError, ScriptedLLM, TextGeneration

ROWS = Dataset.from_dict({"instruction": ["a b", "c", "d"]})


def ask(text, *choices):
    return Request(messages=({"role": "user", "content": text},), choices=choices)


def loudly(request):
    return request.messages[-1]["content"].upper()


def test_scripted_replies_come_in_the_order_of_requests():
    llm = ScriptedLLM(["one", Completion(text="two", finish_reason="length"), "three"])
    first, second = llm.complete([ask("a b"), ask("c")])
    assert (first.text, first.finish_reason, first.prompt_tokens, first.completion_tokens) == ("one", "stop", 2, 1)
    assert second == Completion(text="two", finish_reason="length")
    assert llm.complete([ask("d")])[0].text == "three"
    assert llm.requests == [ask("a b"), ask("c"), ask("d")]


def test_scripted_without_replies_left_names_the_request():
    llm = ScriptedLLM(("one",))
    with pytest.raises(RunError, match=r"1 replies.*request 2.*'c'"):
        llm.complete([ask("a"), ask("c")])


def test_scripted_run_out_ends_a_map():
    with pytest.raises(RunError, match="request 3"):
        ROWS.map(TextGeneration(ScriptedLLM(["one", "two"])), batched=True, with_indices=True)


def test_scripted_function_replies_to_each_request():
    result = ROWS.map(TextGeneration(ScriptedLLM(loudly, name="loud")), batched=True, with_indices=True)
    assert result["generation"][:] == ["A B", "C", "D"]
    assert result[0]["generation_metadata"][0]["model"] == "loud"


def test_scripted_choice_gets_the_best_score():
    (result,) = ScriptedLLM(["good"]).complete([ask("a", "bad", "good", "very good")])
    assert (result.text, result.scores, result.scored_tokens) == ("good", (-1.0, 0.0, -1.0), (2, 2, 3))
    with pytest.raises(ValueError, match="'odd'"):
        ScriptedLLM(["odd"]).complete([ask("a", "bad", "good")])


@pytest.mark.parametrize("replies", ["one", 3, None])
def test_scripted_replies_of_wrong_type_raise(replies):
    with pytest.raises(ValueError, match=repr(replies)):
        ScriptedLLM(replies)


@pytest.mark.parametrize(
    "replies",
    [("one", "two"), loudly, (Completion(text="x", finish_reason="stop"),)],
    ids=["texts", "function", "completions"],
)
def test_scripted_pickled_is_equal_and_hashes_alike(replies):
    llm = ScriptedLLM(replies)
    before = Hasher.hash(TextGeneration(llm))
    llm.complete([ask("a")])
    copy = pickle.loads(pickle.dumps(llm))
    assert copy == llm
    assert copy.requests == []
    assert copy.complete([ask("a")]) == ScriptedLLM(replies).complete([ask("a")])
    assert Hasher.hash(TextGeneration(llm)) == before == Hasher.hash(TextGeneration(copy))


def test_scripted_hash_depends_on_replies_and_code():
    hashes = {Hasher.hash(ScriptedLLM(replies)) for replies in (["a"], ["b"], loudly, lambda request: "a")}
    assert len(hashes) == 4


def test_scripted_function_is_imported_by_its_name(monkeypatch):
    from hfsynth.llms import scripted

    by_name, local = ScriptedLLM(loudly), ScriptedLLM(lambda request: "a")
    monkeypatch.setattr(scripted, "_FUNCTIONS", {})
    assert by_name.complete([ask("a")])[0].text == "A"
    with pytest.raises(ValueError, match="lambda"):
        local.complete([ask("a")])


def test_scripted_serves_a_judge():
    judge = Judge.quality(ScriptedLLM(lambda request: request.choices[-1] if request.choices else "Fine."))
    result = Dataset.from_dict({"instruction": ["a"]}).map(judge, batched=True, with_indices=True)
    assert result[0]["generation_metadata"][0]["model"] == "scripted"
