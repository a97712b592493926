import copy
import json
import logging
import pickle
import random
import threading
import time
from dataclasses import dataclass, field, replace

import pytest
from datasets import Dataset, Features, IterableDataset, List, Value

from hfsynth import (
    ChatTemplateError,
    Completion,
    EchoLLM,
    EvolInstruct,
    GenerationError,
    Magpie,
    Pipeline,
    Request,
    RowError,
    Technique,
    TextGeneration,
    report,
    split_failures,
)
from hfsynth.errors import ColumnError, FlowError
from hfsynth.flow import FlowDriver, RowRandom, RowSeeds, Watchdog, Watcher, derive_seed, run_flows, split_seed
from hfsynth.record import records
from hfsynth.technique import Input
from tests.helpers import RepeatingLLM


def ask(text="Hi."):
    return Request(messages=({"role": "user", "content": text},))


def seeds(number):
    return [RowSeeds(0, "Step", row) for row in range(number)]


def test_run_flows_completes_different_turns_together(tmp_path):
    def flow(turns):
        for turn in range(turns):
            yield ask(f"{turns} {turn}")
        return {"turns": turns}

    log = tmp_path / "log"
    outcomes = run_flows([flow(1), flow(3), flow(0)], RepeatingLLM(log=str(log)), seeds(3))
    assert [outcome.rows for outcome in outcomes] == [[{"turns": 1}], [{"turns": 3}], [{"turns": 0}]]
    asked = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert asked == ["'1 0'", "'3 0'", "'3 1'", "'3 2'"]


def test_run_flows_of_a_failing_row_completes_the_others():
    def flow(good):
        completion = yield ask("?")
        if not good:
            raise RowError("no good", completion.text)
        return {"text": completion.text}

    good, bad = run_flows([flow(True), flow(False)], RepeatingLLM(("yes", "no")), seeds(2))
    assert (good.rows, good.error) == ([{"text": "yes"}], "")
    assert (bad.rows, bad.error, bad.raw) == ([], "no good", "no")


def test_failed_completion_is_raised_inside_the_flow():
    def careful():
        try:
            yield ask("?")
        except RowError as error:
            return {"caught": error.reason}

    def careless():
        yield ask("?")
        return {}

    caught, failed = run_flows([careful(), careless()], RepeatingLLM(("!too long",)), seeds(2))
    assert caught.rows == [{"caught": "too long"}]
    assert failed.error == "too long"


def test_flow_without_rows_is_a_failure():
    def flow():
        yield ask("?")
        return []

    assert run_flows([flow()], RepeatingLLM(), seeds(1))[0].error == "the flow returned no rows"


def test_derive_seed_differs_by_every_part_and_fits_int64():
    result = {derive_seed(s, n, r, t) for s in (0, 1) for n in ("A", "B") for r in range(50) for t in (-1, 0, 1)}
    assert len(result) == 600
    assert all(0 <= seed < 2**63 for seed in result)


def test_split_seed_differs_by_seed_and_split_and_is_fixed():
    assert split_seed(0, "test") == 1917474167976207865
    assert len({split_seed(seed, split) for seed in (0, 1) for split in ("train", "test")} | {0, 1}) == 6


DRAWS = {
    "choice": lambda rng: rng.choice(range(1000)),
    "choices": lambda rng: rng.choices(range(1000), [*range(1, 1001)], k=3),
    "gauss": lambda rng: [rng.gauss(0, 1) for _ in range(3)],
    "getrandbits": lambda rng: rng.getrandbits(70),
    "randbytes": lambda rng: rng.randbytes(5),
    "random": lambda rng: rng.random(),
    "sample": lambda rng: rng.sample(range(1000), 5),
    "seed": lambda rng: (rng.random(), rng.gauss(0, 1), rng.seed(3), rng.gauss(0, 1)),
    "shuffle": lambda rng: (values := list(range(50)), rng.shuffle(values)),
    "uniform": lambda rng: rng.uniform(2, 3),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_row_random_draws_the_numbers_of_its_seed(draw):
    seeds = RowSeeds(0, "Magpie", 7)
    assert draw(RowRandom(seeds)) == draw(random.Random(seeds.row_seed())) != draw(RowRandom(RowSeeds(0, "Magpie", 8)))


@pytest.mark.parametrize(
    "repeated", [copy.deepcopy, lambda rng: pickle.loads(pickle.dumps(rng))], ids=["copy", "pickle"]
)
def test_row_random_copy_goes_on_from_its_state(repeated):
    rng = RowRandom(RowSeeds(0, "Magpie", 7))
    rng.gauss(0, 1)
    other = repeated(rng)
    state = rng.getstate()
    assert [other.gauss(0, 1), other.random()] == (numbers := [rng.gauss(0, 1), rng.random()])
    rng.setstate(state)
    assert [rng.gauss(0, 1), rng.random()] == numbers


def test_outcome_sums_the_tokens_of_all_requests():
    def flow():
        yield ask("?")
        yield ask("?")
        return {}

    outcome = run_flows([flow()], RepeatingLLM(), seeds(1))[0]
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.finish_reason) == (6, 4, "stop")


def test_run_flows_of_lost_completions_raises():
    class Lossy(RepeatingLLM):
        def complete(self, requests):
            return []

    def flow():
        yield ask("?")
        return {}

    with pytest.raises(GenerationError, match="0 completions for 1 requests"):
        run_flows([flow()], Lossy(), seeds(1))


def test_finish_leaves_other_batches_under_way():
    def flow(turns):
        for turn in range(turns):
            yield ask(f"{turns} {turn}")
        return {"turns": turns}

    flows = FlowDriver(RepeatingLLM())
    first = flows.start([flow(1), flow(2)], seeds(2))
    second = flows.start([flow(5)], seeds(1))
    assert [outcome.rows for outcome in flows.finish(first)] == [[{"turns": 1}], [{"turns": 2}]]
    assert not second[0].finished
    assert flows.finish(second)[0].rows == [{"turns": 5}]


def test_finish_mistake_of_a_watched_batch_is_not_raised():
    """The watcher of the one batch gets its exception; the other batch goes on."""

    def flow(text):
        yield ask(text)
        return {"text": undefined if text == "bad" else text}  # noqa: F821

    errors, ended = [], []
    flows = FlowDriver(RepeatingLLM())
    first = flows.start([flow("good")], seeds(1))
    watcher = Watcher(ended=ended.append, raised=errors.append)
    second = flows.start([flow("bad"), flow("fine")], seeds(2), watcher=watcher)
    assert [outcome.rows for outcome in flows.finish(first)] == [[{"text": "good"}]]
    while flows.advance():
        pass
    assert [type(error) for error in errors] == [FlowError]
    assert ended == [second[1]]


def test_set_callbacks_continues_the_stream():
    def flow(turns):
        for turn in range(turns):
            yield ask(f"{turns} {turn}")
        return {"turns": turns}

    before, after = [], []
    flows = FlowDriver(RepeatingLLM(), watcher=Watcher(ended=lambda run: before.append(run.seeds.row)))
    flows.finish(flows.start([flow(1)], seeds(1)))
    flows.set_callbacks(watcher=Watcher(ended=lambda run: after.append(run.seeds.row)))
    assert flows.advance() is False
    flows.finish(flows.start([flow(2), flow(1)], seeds(2)))
    assert (before, after) == ([0], [1, 0])


def test_run_flows_of_an_early_end_raises():
    class Lazy(RepeatingLLM):
        def stream(self, requests):
            requests.take()
            yield from ()

    def flow():
        yield ask("?")
        return {}

    with pytest.raises(GenerationError, match="stopped before it had completed every request"):
        run_flows([flow()], Lazy(), seeds(1))


class Faulty(RepeatingLLM):
    """Echoes; raises, or writes what can't be stored, for some texts."""

    def complete(self, requests):
        texts = [request.messages[-1]["content"] for request in requests]
        for text, error in RAISES.items():
            if text in texts:
                raise error
        return [Completion(text=WRITES.get(text, text), finish_reason="stop") for text in texts]


RAISES = {
    "raise": ValueError("a bad request"),
    "time out": TimeoutError("no answer"),
    "memory": GenerationError("out of memory with one row"),
    "template": ChatTemplateError("no system role"),
    "encode": UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
}
WRITES = {"surrogate": "half \ud83d", "overflow": str(2**70), "word": "ten", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Number(Technique):
    """Text → text and number of words or, where the completion says one, that number."""

    def input_features(self, available):
        return {"text": Input.TEXT}

    @property
    def output_features(self):
        return Features({"reply": Value("string"), "number": Value("int64")})

    def flow(self, row, rng):
        completion = yield ask(row["text"])
        if completion.text == "ten":
            raise LookupError("a word, no number")
        return {"reply": completion.text, "number": int(completion.text) if completion.text.isdigit() else 0}


FAULTS = {
    "raise": "ValueError: a bad request",
    "time out": "TimeoutError: no answer",
    "template": "no system role",
    "encode": "UnicodeEncodeError: ",
    "surrogate": "reply has a lone surrogate (U+D83D)",
    "overflow": "number can't be stored",
    "word": "LookupError: a word, no number",
}


def errors(output):
    return [entries[-1]["error"] for entries in output["generation_metadata"]]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("texts", [["{}"], ["a", "{}"], ["{}", "a"], ["a", "b", "{}", "c", "{}", "d"]])
@pytest.mark.parametrize("fault", FAULTS)
def test_map_faulty_row_fails_whatever_is_beside_it(fault, texts, batch_size):
    rows = Dataset.from_dict({"text": [text.format(fault) for text in texts]})
    output = rows.map(Number(Faulty()), batched=True, with_indices=True, batch_size=batch_size)
    for text, reply, error in zip(texts, output["reply"], errors(output), strict=True):
        assert (reply, error) == (text, "") if text != "{}" else error.startswith(FAULTS[fault])


@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("value", [7, 1.5, ["a"], {"a": 1}, b"a", True, "lone \ud800"])
def test_streaming_wrong_type_or_surrogate_fails_its_row(value, batch_size):
    def examples():
        yield from ({"text": "a"}, {"text": value}, {"text": "b"})

    rows = IterableDataset.from_generator(examples)
    output = list(rows.map(Number(Faulty()), batched=True, with_indices=True, batch_size=batch_size))
    assert [row["reply"] for row in output] == ["a", None, "b"]
    assert "text is" in output[1]["generation_metadata"][0]["error"] or isinstance(value, str)
    assert output[1]["generation_metadata"][0]["finish_reason"] == ("refused" if isinstance(value, str) else "")


def test_map_many_rows_raise_and_none_is_completed_is_raised():
    rows = Dataset.from_dict({"text": ["time out"] * 20})
    with pytest.raises(TimeoutError, match="no answer"):
        rows.map(Number(Faulty()), batched=True, with_indices=True, batch_size=3)


def test_map_generation_error_of_every_row_is_raised():
    with pytest.raises(GenerationError, match="out of memory"):
        Number(Faulty())({"text": ["memory", "memory"]}, [0, 1])
    output = Number(Faulty())({"text": ["memory", "a"]}, [0, 1])
    assert output["reply"] == [None, "a"]


def test_entry_reason_and_raw_text_can_always_be_stored():
    @dataclass(frozen=True)
    class Quoting(Number):
        def flow(self, row, rng):
            completion = yield ask(row["text"])
            raise RowError(f"no good: {completion.text}", completion.text)

    rows = Dataset.from_dict({"text": ["surrogate"]})
    output = rows.map(Quoting(Faulty()), batched=True, with_indices=True)
    assert output[0]["generation_metadata"][0]["raw"] == "half \\ud83d"
    assert errors(output) == ["no good: half \\ud83d"]


class Declared:
    """The outputs of the techniques below: `output`, a text."""

    def input_features(self, available):
        return {"text": Input.TEXT}

    @property
    def output_features(self):
        return Features({"output": Value("string"), "turns": List({"role": Value("string")}), "n": Value("int64")})


GOOD = {"output": "a", "turns": [{"role": "user"}], "n": 1}


def yields(value):
    def flow(self, row, rng):
        yield value
        return GOOD

    return flow


def returns(value):
    def flow(self, row, rng):
        yield ask()
        return value

    return flow


def reads(name):
    def flow(self, row, rng):
        yield ask(row[name])
        return GOOD

    return flow


def misses(self, row, rng):
    completion = yield ask()
    return {**GOOD, "output": completion.txt}


def unimported(self, row, rng):
    yield ask()
    return {**GOOD, "output": jsn.dumps(row)}  # noqa: F821


def no_generator(self, row, rng):
    return GOOD


def too_few(self, row):
    yield ask()


async def a_coroutine(self, row, rng):
    return GOOD


MISTAKES = {
    "yields text": (yields("Hi."), "Request"),
    "yields a dict": (yields({"role": "user"}), "Request"),
    "yields messages": (yields([{"role": "user", "content": "Hi."}]), "Request"),
    "yields requests": (yields([ask()]), "Request"),
    "yields a completion": (yields(Completion(text="a", finish_reason="stop")), "Request"),
    "yields nothing": (yields(None), "None"),
    "messages are text": (yields(Request(messages="Hi.")), "messages"),
    "messages are texts": (yields(Request(messages=("Hi.",))), "messages"),
    "returns nothing": (returns(None), "nothing"),
    "returns text": (returns("a"), "'a'"),
    "returns a request": (returns(ask()), "Request"),
    "returns a number": (returns(3), "int"),
    "returns texts": (returns(["a"]), "str"),
    "returns lists": (returns([[GOOD]]), "list"),
    "another key": (returns({"other": "a"}), "other"),
    "one key too many": (returns({**GOOD, "other": 1}), "other"),
    "a key is missing": (returns({"output": "a"}), "turns"),
    "number for text": (returns({**GOOD, "output": 3}), "'output'"),
    "list for text": (returns({**GOOD, "output": ["a"]}), "'output'"),
    "text for a list": (returns({**GOOD, "turns": "a"}), "'turns'"),
    "another field": (returns({**GOOD, "turns": [{"rôle": "a"}]}), "'turns'"),
    "text for a number": (returns({**GOOD, "n": "1"}), "'n'"),
    "half a number": (returns({**GOOD, "n": 1.5}), "'n'"),
    "completion for text": (returns({**GOOD, "output": Completion(text="a", finish_reason="stop")}), "'output'"),
    "reads another column": (reads("txt"), "txt"),
    "misspelt attribute": (misses, "txt"),
    "missing import": (unimported, "jsn"),
    "no generator": (no_generator, "yield"),
    "too few arguments": (too_few, "flow"),
    "a coroutine": (a_coroutine, "yield"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_own_technique_mistake_is_an_error_that_names_it(mistake):
    flow, named = MISTAKES[mistake]
    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": flow}))
    with pytest.raises((FlowError, ColumnError), match="MyOwn") as caught:
        cls(RepeatingLLM())({"text": ["a"]}, [0])
    assert named in str(caught.value)


def requests_with(**fields):
    def flow(self, row, rng):
        yield Request(**{"messages": ({"role": "user", "content": row["text"]},), **fields})
        return GOOD

    return flow


@pytest.mark.parametrize(
    ("fields", "value", "fix"),
    [
        ({"messages": ({"role": "user", "content": None},)}, "None", "text"),
        ({"messages": ({"role": "user", "content": 3},)}, "3", "text"),
        ({"messages": ({"role": "user"},)}, "{'role': 'user'}", "'content'"),
        ({"messages": ({"role": "asistant", "content": "a"},)}, "'asistant'", "'assistant'"),
        ({"messages": None}, "None", "Request(messages=({'role': 'user'"),
        ({"sampling": {"temperature": 0}}, "{'temperature': 0}", "SamplingParams("),
        ({"role": "system"}, "'system'", "'assistant'"),
    ],
)
def test_own_technique_request_fault_names_value_and_fix(fields, value, fix):
    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": requests_with(**fields)}))
    with pytest.raises(FlowError, match="MyOwn") as caught:
        cls(RepeatingLLM())({"text": ["a"]}, [0])
    assert value in str(caught.value)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


def test_request_without_content_fails_its_row_alone():
    def flow(self, row, rng):
        yield Request(messages=({"role": "user", "content": None if row["text"] == "b" else row["text"]},))
        return GOOD

    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": flow}))
    columns = cls(RepeatingLLM())({"text": ["a", "b", "c"]}, [0, 1, 2])
    assert columns["output"] == ["a", None, "a"]
    assert "content" in columns["generation_metadata"][1][0]["error"]


def test_own_technique_feature_as_text_is_an_error():
    class MyOwn(Declared, Technique):
        output_features = property(lambda self: Features({"response": "string"}))
        flow = returns(GOOD)

    with pytest.raises(TypeError, match=r"MyOwn.*'string' for 'response'.*Value\('string'\)"):
        dataclass(frozen=True)(MyOwn)(RepeatingLLM())


@pytest.mark.parametrize("result", [GOOD, [GOOD, GOOD], (GOOD,), [{**GOOD, "n": None, "turns": None}]])
def test_own_technique_result_of_the_right_kind_is_taken(result):
    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": returns(result)}))
    assert cls(RepeatingLLM())({"text": ["a"]}, [0])["output"][0] == "a"


def test_own_technique_without_dataclass_raises():
    class MyOwn(Declared, Technique):
        topic: str = field(default="x", metadata={"help": "A topic."})
        flow = returns(GOOD)

    with pytest.raises(TypeError, match=r"MyOwn .*\['topic'\].*@dataclass\(frozen=True\)"):
        MyOwn(RepeatingLLM(), topic="y")


def outputs(value):
    return property(lambda self: value)


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"output_features": lambda self: Features({"output": Value("string")})}, "@property"),
        ({"output_features": outputs({"output": Value("string")})}, "Features"),
        ({"output_features": outputs(["output"])}, "Features"),
        ({"output_features": outputs(Features({}))}, "Features"),
        ({"input_features": lambda self, available: ["text"]}, "Input.TEXT"),
        ({"input_features": lambda self, available: {"text": Value("string")}}, "Input.TEXT"),
        ({"input_features": lambda self, available: None}, "Input.TEXT"),
    ],
)
def test_own_technique_declaration_is_checked(declared, named):
    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": returns(GOOD), **declared}))
    with pytest.raises(TypeError, match="MyOwn") as caught:
        cls(RepeatingLLM())({"text": ["a"]}, [0])
    assert named in str(caught.value)


class Handing(RepeatingLLM):
    """Gives what is no completion."""

    def complete(self, requests):
        return ["text" for _ in requests]


def test_llm_without_completions_raises():
    with pytest.raises(GenerationError, match=r"scripted returned 'text'.*Completion"):
        TextGeneration(Handing())({"instruction": ["a"]}, [0])


CUT = RepeatingLLM(("Tea is a drink that",), finish_reason="length")
REASON = "the response was cut off after 2 tokens (raise max_new_tokens, or set keep_truncated=True)"
ROWS = Dataset.from_dict({"instruction": ["What is tea?", "Who drinks it?"]})


def run(technique, rows=ROWS):
    return rows.map(technique, batched=True, with_indices=True)


def entry(row):
    return row["generation_metadata"][-1]


def test_text_generation_cut_off_fails_its_row_with_the_text():
    result = run(TextGeneration(CUT))
    assert result["generation"][:] == [None, None]
    assert [entry(row)["error"] for row in result] == [REASON] * 2
    assert [entry(row)["raw"] for row in result] == ["Tea is a drink that"] * 2
    assert [entry(row)["truncated"] for row in result] == [False, False]
    rows, failures = split_failures(result)
    assert (len(rows), failures["reason"][:]) == (0, [REASON] * 2)


def test_text_generation_cut_off_stays_with_keep_truncated():
    result = run(TextGeneration(CUT, keep_truncated=True))
    assert result["generation"][:] == ["Tea is a drink that"] * 2
    assert [(entry(row)["error"], entry(row)["truncated"]) for row in result] == [("", True)] * 2


def test_text_generation_that_ended_is_not_marked():
    result = run(TextGeneration(RepeatingLLM(("Tea is a drink.",)), keep_truncated=True))
    assert [entry(row)["truncated"] for row in result] == [False, False]


@pytest.mark.parametrize("keep", [False, True])
def test_magpie_response_cut_off_fails_in_any_turn(keep):
    """The user's turns end by themselves, the answers don't."""
    llm = ByRole()
    for technique in (Magpie(llm, keep_truncated=keep), Magpie(llm, n_turns=2, keep_truncated=keep)):
        result = run(technique, Dataset.from_dict({"id": range(2)}))
        assert [entry(row)["error"] for row in result] == [REASON if not keep else ""] * 2
        assert [entry(row)["truncated"] for row in result] == [keep] * 2


class ByRole(RepeatingLLM):
    """Ends the user's turns, and cuts the assistant's off."""

    def complete(self, requests):
        ends = ("stop" if request.role == "user" else "length" for request in requests)
        return [replace(self._reply("So it is"), finish_reason=end) for end in ends]


@pytest.mark.parametrize("keep", [False, True])
def test_evol_instruct_answer_cut_off_fails_unless_kept(keep):
    result = run(EvolInstruct(CUT, num_evolutions=0, generate_answers=True, keep_truncated=keep))
    assert result["answer"][:] == (["Tea is a drink that"] if keep else [None]) * 2
    assert ["cut off" in entry(row)["error"] for row in result] == [not keep] * 2
    assert [entry(row)["truncated"] for row in result] == [keep] * 2


@pytest.mark.parametrize("group", [False, True])
def test_generations_one_cut_off_fails_row(group):
    """Rows with a generation that was cut off fail with all their texts, and count for no `num_rows`."""
    step = TextGeneration(OneOfTwo(), num_generations=2, group_generations=group)
    result = run(step)
    assert result["generation"][:] == [None] * 2
    assert [entry(row)["error"].split(" cut off")[0] for row in result] == ["1 of 2 generations were"] * 2
    assert [json.loads(entry(row)["raw"]) for row in result] == [["Tea is a drink.", "Tea is a"]] * 2
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
    result = run(Own(CUT))
    assert result["response"][:] == [None] * 2
    assert [entry(row)["raw"] for row in result] == ["Tea is a drink that"] * 2


class OneOfTwo(RepeatingLLM):
    """Ends the first of a row's two answers: its rows ask one after the other."""

    def complete(self, requests):
        count = _CALLS.setdefault(self, [0])
        count[0] += 1
        text, end = ("Tea is a drink.", "stop") if count[0] % 2 else ("Tea is a", "length")
        return [replace(self._reply(text), finish_reason=end) for _ in requests]


_CALLS: dict = {}


def test_truncated_rows_are_counted_in_record_and_report(tmp_path):
    result = Pipeline((TextGeneration(CUT, keep_truncated=True),)).run(ROWS, run_dir=tmp_path / "run", quiet=True)
    assert records(result)[0].steps[0].truncated == 2
    assert report(result).steps[0].truncated == 2


@dataclass(frozen=True)
class SlowLLM(EchoLLM):
    """Completes requests one by one, each after a while."""

    seconds_per_request: float = 0.4

    def stream(self, requests):
        while item := requests.take():
            yield item[0], self.complete([item[1]])[0]


def flow():
    completion = yield Request(messages=({"role": "user", "content": "Hi"},))
    return {"text": completion.text}


def finish(llm, number, patience):
    flows = FlowDriver(llm, patience=patience)
    return flows.finish(flows.start([flow() for _ in range(number)], [RowSeeds(0, "Step", n) for n in range(number)]))


def test_watchdog_silent_llm_warns_with_step_and_rows(caplog):
    outcomes = finish(SlowLLM(), 2, patience=0.15)
    assert [outcome.rows for outcome in outcomes] == [[{"text": "Hi"}]] * 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0].startswith("Step: no completion from echo for 0 seconds; 2 rows wait.")
    assert warnings[-1].startswith("Step: no completion from echo for 0 seconds; 1 rows wait.")


def test_watchdog_llm_in_time_warns_nothing(caplog):
    assert len(finish(SlowLLM(seconds_per_request=0.01), 8, patience=30)) == 8
    assert caplog.text == ""


def test_watchdog_warns_each_time_the_silence_doubles(caplog):
    with Watchdog("Step", "echo", lambda: 1, patience=0.1):
        time.sleep(1.0)
    assert 2 <= caplog.text.count("no completion") <= 4  # after 0.1, 0.2, 0.4 and 0.8 seconds


def test_watchdog_thread_ends_with_its_block():
    before = threading.active_count()
    with Watchdog("Step", "echo", lambda: 1, patience=60):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_watchdog_rows_without_requests_start_no_thread():
    def nothing():
        return {"text": ""}
        yield

    flows, before = FlowDriver(EchoLLM()), threading.active_count()
    (outcome,) = flows.finish(flows.start([nothing()], [RowSeeds(0, "Step", 0)]))
    assert outcome.rows == [{"text": ""}]
    assert threading.active_count() == before
