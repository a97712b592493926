import math
import random

import pytest
from datasets import Dataset

from hfsynth import GenerationError, InstructionFollowingDifficulty, RowError
from hfsynth.llm import Completion
from tests.helpers import ScriptedLLM, drive

ROW = {"instruction": "Say a colour.", "response": "Blue."}
RNG = random.Random(0)


def technique(**fields):
    return InstructionFollowingDifficulty(ScriptedLLM(), **fields)


def scored(score, tokens):
    return Completion(text="Blue.", finish_reason="stop", scores=(score,), scored_tokens=(tokens,))


def test_it_is_the_ratio_of_the_responses_perplexities_with_the_instruction_and_without():
    requests, rows = drive(technique().flow(ROW, RNG), scored(-3.0, 3), scored(-6.0, 3))
    assert [message["content"] for message in requests[0].messages] == ["Say a colour."]
    assert requests[1].messages == ()
    assert {request.choices for request in requests} == {("Blue.",)}
    assert {request.role for request in requests} == {"assistant"}
    assert rows[0]["ifd"] == pytest.approx(math.exp(1) / math.exp(2))


def test_an_instruction_that_misleads_is_above_one():
    assert drive(technique().flow(ROW, RNG), scored(-8.0, 4), scored(-4.0, 4))[1][0]["ifd"] == pytest.approx(math.e)


def test_ifd_of_losses_divides_mean_losses():
    """The definition of the paper's own code: mean loss 1 after the instruction over mean loss 2 alone."""
    _, rows = drive(technique(ratio="loss").flow(ROW, RNG), scored(-3.0, 3), scored(-6.0, 3))
    assert rows[0]["ifd"] == pytest.approx(0.5)


def test_ifd_of_losses_without_loss_alone_fails_its_row():
    with pytest.raises(RowError, match=r"scores -3.0 and 0.0"):
        drive(technique(ratio="loss").flow(ROW, RNG), scored(-3.0, 3), scored(0.0, 3))


def test_ifd_ratio_of_another_name_is_an_error():
    with pytest.raises(ValueError, match=r"ratio must be one of \['perplexity', 'loss'\], got 'mean'"):
        technique(ratio="mean")


def test_a_row_without_a_response_fails():
    dataset = Dataset.from_dict({"instruction": ["a", "b"], "response": ["", None]})
    made = dataset.map(technique(), batched=True, with_indices=True)
    assert made["ifd"][:] == [None, None]
    errors = [row["generation_metadata"][0]["error"] for row in made]
    assert errors == ["response is empty", "response is None"]


@pytest.mark.parametrize("score", [-math.inf, math.nan, -1e6])
def test_a_ratio_that_is_no_number_fails_its_row(score):
    flow = technique().flow(ROW, RNG)
    next(flow)
    flow.send(scored(score, 2))
    with pytest.raises(RowError, match="can't be compared"):
        flow.send(scored(-1.0, 2))


def test_an_llm_that_scores_nothing_is_an_error():
    unable = InstructionFollowingDifficulty(ScriptedLLM(scores=False))
    with pytest.raises(GenerationError, match="1 choices were to be scored, and 0 scores came"):
        Dataset.from_list([ROW]).map(unable, batched=True, with_indices=True)


def test_the_citation_names_both_papers():
    assert all(paper in InstructionFollowingDifficulty.citation for paper in ("2308.12032", "2402.00530"))


@pytest.mark.model
def test_the_real_model_expects_an_answer_more_after_its_question_than_after_another(smollm):
    france, bread = "The capital of France is Paris.", "Knead the dough, let it rise and bake it."
    dataset = Dataset.from_dict(
        {
            "instruction": ["What is the capital of France?", "How do I bake bread?"] * 2,
            "response": [france, bread, bread, france],
        }
    )
    made = dataset.map(InstructionFollowingDifficulty(smollm), batched=True, with_indices=True)
    assert made["ifd"][0] < 0.9
    assert made["ifd"][1] < 0.9
    assert made["ifd"][0] < made["ifd"][3]
    assert made["ifd"][1] < made["ifd"][2]
