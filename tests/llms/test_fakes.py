"""The llms without a model: echoes, and scripted replies, in order and by a function, pickled and in `Dataset.map`."""

import pickle
import subprocess
import sys

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher

from hfsynth import Completion, EchoLLM, Judge, Request, RunError, SamplingParams, ScriptedLLM, TextGeneration

ROWS = Dataset.from_dict({"instruction": ["a b", "c", "d"]})


def ask(text, *choices):
    return Request(messages=({"role": "user", "content": text},), choices=choices)


def loudly(request):
    return request.messages[-1]["content"].upper()


def echo(text, role="assistant", **options):
    return EchoLLM().complete([Request(messages=({"role": "user", "content": text},), role=role, **options)])[0]


def test_echo_returns_the_last_message():
    completion = echo("a b c")
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b c", "stop", 3)


def test_echo_is_cut_off_at_max_new_tokens():
    completion = echo("a b c", sampling=SamplingParams(max_new_tokens=2))
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b", "length", 2)


def test_echo_scores_choices_by_the_conversation():
    completion = echo("a b", choices=("yes", "no, never", "yes"))
    assert completion == echo("a b", choices=("yes", "no, never", "yes"))
    assert completion.scores[0] == completion.scores[2]
    assert completion.scores != echo("c", choices=("yes", "no, never", "yes")).scores
    assert completion.text == ("yes", "no, never")[completion.scores.index(max(completion.scores))]
    assert (completion.prompt_tokens, completion.completion_tokens, completion.scored_tokens) == (6, 0, (2, 3, 2))


def test_echo_as_a_user_asks_by_its_seed():
    assert echo("a", "user", seed=1) == echo("a", "user", seed=1) != echo("a", "user", seed=2)


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


OTHER_PROCESS = """
import pickle, sys
llms, request = pickle.load(sys.stdin.buffer)
for llm in llms:
    try:
        print(llm.complete([request])[0].text)
    except ValueError as error:
        print(error)
"""


def test_scripted_function_is_imported_by_its_name():
    """Another process imports a function of a module, and can't have a lambda."""
    pickled = pickle.dumps(([ScriptedLLM(loudly), ScriptedLLM(lambda request: "a")], ask("a")))
    result = subprocess.run([sys.executable, "-c", OTHER_PROCESS], input=pickled, capture_output=True, check=True)
    by_name, local = result.stdout.decode().splitlines()
    assert by_name == "A"
    assert "<lambda>" in local


def test_scripted_serves_a_judge():
    judge = Judge.quality(ScriptedLLM(lambda request: request.choices[-1] if request.choices else "Fine."))
    result = Dataset.from_dict({"instruction": ["a"]}).map(judge, batched=True, with_indices=True)
    assert result[0]["generation_metadata"][0]["model"] == "scripted"
