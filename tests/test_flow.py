import pytest

from hfsynth import GenerationError, Request, RowError
from hfsynth.flow import Flows, RowSeeds, derive_seed, run_flows
from tests.helpers import ScriptedLLM


def ask(text):
    return Request(messages=({"role": "user", "content": text},))


def seeds(number):
    return [RowSeeds(0, "Step", row) for row in range(number)]


def test_rows_at_different_turns_are_completed_together(tmp_path):
    def flow(turns):
        for turn in range(turns):
            yield ask(f"{turns} {turn}")
        return {"turns": turns}

    log = tmp_path / "log"
    outcomes = run_flows([flow(1), flow(3), flow(0)], ScriptedLLM(log=str(log)), seeds(3))
    assert [outcome.rows for outcome in outcomes] == [[{"turns": 1}], [{"turns": 3}], [{"turns": 0}]]
    asked = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert asked == ["'1 0'", "'3 0'", "'3 1'", "'3 2'"]


def test_a_row_that_fails_leaves_the_others_whole():
    def flow(good):
        completion = yield ask("?")
        if not good:
            raise RowError("no good", completion.text)
        return {"text": completion.text}

    good, bad = run_flows([flow(True), flow(False)], ScriptedLLM(("yes", "no")), seeds(2))
    assert (good.rows, good.error) == ([{"text": "yes"}], "")
    assert (bad.rows, bad.error, bad.raw) == ([], "no good", "no")


def test_a_failed_completion_is_raised_inside_the_flow_which_may_catch_it():
    def careful():
        try:
            yield ask("?")
        except RowError as error:
            return {"caught": error.reason}

    def careless():
        yield ask("?")
        return {}

    caught, failed = run_flows([careful(), careless()], ScriptedLLM(("!too long",)), seeds(2))
    assert caught.rows == [{"caught": "too long"}]
    assert failed.error == "too long"


def test_no_rows_is_a_failure_and_not_a_gap():
    def flow():
        yield ask("?")
        return []

    assert run_flows([flow()], ScriptedLLM(), seeds(1))[0].error == "the row became no rows"


def test_a_seed_depends_on_field_step_row_and_turn_and_fits_an_int64():
    made = {derive_seed(s, n, r, t) for s in (0, 1) for n in ("A", "B") for r in range(50) for t in (-1, 0, 1)}
    assert len(made) == 600
    assert all(0 <= seed < 2**63 for seed in made)


def test_tokens_are_summed_over_a_rows_requests():
    def flow():
        yield ask("?")
        yield ask("?")
        return {}

    outcome = run_flows([flow()], ScriptedLLM(), seeds(1))[0]
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.finish_reason) == (6, 4, "stop")


def test_an_llm_that_loses_completions_is_an_error():
    class Lossy(ScriptedLLM):
        def complete(self, requests):
            return []

    def flow():
        yield ask("?")
        return {}

    with pytest.raises(GenerationError, match="0 completions for 1 requests"):
        run_flows([flow()], Lossy(), seeds(1))


def test_a_batch_may_be_finished_while_another_is_under_way():
    def flow(turns):
        for turn in range(turns):
            yield ask(f"{turns} {turn}")
        return {"turns": turns}

    flows = Flows(ScriptedLLM())
    first = flows.start([flow(1), flow(2)], seeds(2))
    second = flows.start([flow(5)], seeds(1))
    assert [outcome.rows for outcome in flows.finish(first)] == [[{"turns": 1}], [{"turns": 2}]]
    assert not second[0].finished
    assert flows.finish(second)[0].rows == [{"turns": 5}]


def test_an_llm_that_stops_early_is_an_error():
    class Lazy(ScriptedLLM):
        def stream(self, requests):
            requests.take()
            yield from ()

    def flow():
        yield ask("?")
        return {}

    with pytest.raises(GenerationError, match="stopped before it had completed every request"):
        run_flows([flow()], Lazy(), seeds(1))
