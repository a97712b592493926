"""A row that is at fault fails by itself, whatever rows are beside it; a mistake in a technique is an error."""

from dataclasses import dataclass, field

import pytest
from datasets import Dataset, Features, IterableDataset, List, Value

from hfsynth import ChatTemplateError, Completion, GenerationError, Request, RowError, Technique, TextGeneration
from hfsynth.errors import ColumnError, FlowError
from hfsynth.technique import Input
from tests.helpers import ScriptedLLM


def ask(text="Hi."):
    return Request(messages=({"role": "user", "content": text},))


class Faulty(ScriptedLLM):
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
        cls(ScriptedLLM())({"text": ["a"]}, [0])
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
        cls(ScriptedLLM())({"text": ["a"]}, [0])
    assert value in str(caught.value)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


def test_request_without_content_fails_its_row_alone():
    def flow(self, row, rng):
        yield Request(messages=({"role": "user", "content": None if row["text"] == "b" else row["text"]},))
        return GOOD

    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": flow}))
    columns = cls(ScriptedLLM())({"text": ["a", "b", "c"]}, [0, 1, 2])
    assert columns["output"] == ["a", None, "a"]
    assert "content" in columns["generation_metadata"][1][0]["error"]


def test_own_technique_feature_as_text_is_an_error():
    class MyOwn(Declared, Technique):
        output_features = property(lambda self: Features({"response": "string"}))
        flow = returns(GOOD)

    with pytest.raises(TypeError, match=r"MyOwn.*'string' for 'response'.*Value\('string'\)"):
        dataclass(frozen=True)(MyOwn)(ScriptedLLM())


@pytest.mark.parametrize("result", [GOOD, [GOOD, GOOD], (GOOD,), [{**GOOD, "n": None, "turns": None}]])
def test_own_technique_result_of_the_right_kind_is_taken(result):
    cls = dataclass(frozen=True)(type("MyOwn", (Declared, Technique), {"flow": returns(result)}))
    assert cls(ScriptedLLM())({"text": ["a"]}, [0])["output"][0] == "a"


def test_own_technique_without_dataclass_is_told():
    class MyOwn(Declared, Technique):
        topic: str = field(default="x", metadata={"help": "A topic."})
        flow = returns(GOOD)

    with pytest.raises(TypeError, match=r"MyOwn has the fields \['topic'\].*@dataclass\(frozen=True\)"):
        MyOwn(ScriptedLLM(), topic="y")


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
        cls(ScriptedLLM())({"text": ["a"]}, [0])
    assert named in str(caught.value)


class Handing(ScriptedLLM):
    """Gives what is no completion."""

    def complete(self, requests):
        return ["text" for _ in requests]


def test_llm_that_gives_no_completions_is_told():
    with pytest.raises(GenerationError, match=r"scripted gave 'text'.*Completion"):
        TextGeneration(Handing())({"instruction": ["a"]}, [0])
