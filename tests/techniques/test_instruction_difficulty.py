import math
import random

import pytest
from datasets import Dataset

from hfsynth import GenerationError, InstructionFollowingDifficulty, RowError
from hfsynth.llm import Completion
from tests.helpers import RepeatingLLM, drive

ROW = {"instruction": "Say a colour.", "response": "Blue."}
RNG = random.Random(0)


def technique(**fields):
    return InstructionFollowingDifficulty(RepeatingLLM(), **fields)


def scored(score, tokens):
    return Completion(text="Blue.", finish_reason="stop", scores=(score,), scored_tokens=(tokens,))


def test_ifd_is_the_ratio_of_perplexities():
    requests, rows = drive(technique().flow(ROW, RNG), scored(-3.0, 3), scored(-6.0, 3))
    assert [message["content"] for message in requests[0].messages] == ["Say a colour."]
    assert requests[1].messages == ()
    assert {request.choices for request in requests} == {("Blue.",)}
    assert {request.role for request in requests} == {"assistant"}
    assert rows[0]["ifd"] == pytest.approx(math.exp(1) / math.exp(2))


def test_ifd_misleading_instruction_is_above_one():
    assert drive(technique().flow(ROW, RNG), scored(-8.0, 4), scored(-4.0, 4))[1][0]["ifd"] == pytest.approx(math.e)


CALL = {"function": {"name": "now", "arguments": {}}}
TALK = [
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "9", "name": "now"},
    {"role": "assistant", "content": "At 9."},
]
TOOLS = ({"type": "function", "function": {"name": "now"}},)


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_ifd_of_a_conversation_scores_its_last_turn(column):
    row = {column: TALK, "tools": list(TOOLS)}
    assert set(technique().input_features([*row, "instruction"])) == set(row)
    requests, rows = drive(technique().flow(row, RNG), scored(-3.0, 3), scored(-6.0, 3))
    assert [message["role"] for message in requests[0].messages] == ["user", "assistant", "tool"]
    assert requests[0].messages[1]["tool_calls"] == [CALL]
    assert (requests[0].tools, requests[1].messages) == (TOOLS, ())
    assert {request.choices for request in requests} == {("At 9.",)}
    assert rows[0]["ifd"] == pytest.approx(math.exp(-1))


@pytest.mark.parametrize(("count", "reason"), [(1, "no answer to score"), (2, "calls tools"), (3, "'tool'")])
def test_ifd_of_a_conversation_without_an_answer_fails(count, reason):
    with pytest.raises(RowError, match=reason):
        next(technique().flow({"messages": TALK[:count]}, RNG))


def test_ifd_of_losses_divides_mean_losses():
    """The definition of the paper's own code: mean loss 1 after the instruction over mean loss 2 alone."""
    _, rows = drive(technique(ratio="loss").flow(ROW, RNG), scored(-3.0, 3), scored(-6.0, 3))
    assert rows[0]["ifd"] == pytest.approx(0.5)


def test_ifd_of_losses_without_loss_alone_fails_its_row():
    with pytest.raises(RowError, match=r"scores -3.0 and 0.0"):
        drive(technique(ratio="loss").flow(ROW, RNG), scored(-3.0, 3), scored(0.0, 3))


def test_ifd_unknown_ratio_is_an_error():
    with pytest.raises(ValueError, match=r"ratio .*\['perplexity', 'loss'\].*'mean'"):
        technique(ratio="mean")


def test_ifd_row_without_a_response_fails():
    dataset = Dataset.from_dict({"instruction": ["a", "b"], "response": ["", None]})
    produced = dataset.map(technique(), batched=True, with_indices=True)
    assert produced["ifd"][:] == [None, None]
    errors = [row["generation_metadata"][0]["error"] for row in produced]
    assert errors == ["response is empty", "response is None"]


@pytest.mark.parametrize("score", [-math.inf, math.nan, -1e6])
def test_ifd_infinite_ratio_fails_its_row(score):
    flow = technique().flow(ROW, RNG)
    next(flow)
    flow.send(scored(score, 2))
    with pytest.raises(RowError, match="can't be compared"):
        flow.send(scored(-1.0, 2))


def test_ifd_llm_without_scores_is_an_error():
    unable = InstructionFollowingDifficulty(RepeatingLLM(scores=False))
    with pytest.raises(GenerationError, match=r"1 choices.* 0 scores"):
        Dataset.from_list([ROW]).map(unable, batched=True, with_indices=True)


def test_ifd_citation_names_both_papers():
    assert all(paper in InstructionFollowingDifficulty.citation for paper in ("2308.12032", "2402.00530"))


@pytest.mark.model
def test_ifd_real_model_prefers_the_matching_question(smollm):
    france, bread = "The capital of France is Paris.", "Knead the dough, let it rise and bake it."
    dataset = Dataset.from_dict(
        {
            "instruction": ["What is the capital of France?", "How do I bake bread?"] * 2,
            "response": [france, bread, bread, france],
        }
    )
    produced = dataset.map(InstructionFollowingDifficulty(smollm), batched=True, with_indices=True)
    assert produced["ifd"][0] < 0.9
    assert produced["ifd"][1] < 0.9
    assert produced["ifd"][0] < produced["ifd"][3]
    assert produced["ifd"][1] < produced["ifd"][2]
