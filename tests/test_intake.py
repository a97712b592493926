"""What a loaded model gives back, and when: with a model of random weights and a tokenizer of ASCII characters."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hfsynth import GenerationError, Request, SamplingParams
from hfsynth.chat import ChatTemplate
from hfsynth.engine import model as intake
from hfsynth.engine import model as loaded_module
from hfsynth.engine.compatibility import adopt_attention
from hfsynth.engine.model import Loaded, pack_linears
from hfsynth.llm import Requests
from tests.tiny import tiny


class Characters:
    def __init__(self):
        self.added_tokens_decoder = {}

    def __call__(self, text, add_special_tokens):
        return SimpleNamespace(input_ids=[ord(sign) for sign in text])

    def decode(self, tokens, **options):
        return "".join(map(chr, tokens))

    def convert_tokens_to_ids(self, tokens):
        return [ord(token) for token in tokens]


def render(messages, generation_prompt):
    said = "".join(f"<{message['role'][0]}>{message['content']}" for message in messages)
    return said + ("<a>" if generation_prompt else "")


@pytest.fixture(scope="module")
def loaded():
    model = tiny(vocab_size=128)
    pack_linears(model)
    fault = adopt_attention(model)
    return Loaded(model, Characters(), ChatTemplate("tiny", render), frozenset({5}), 200, fault)


def ask(text, *choices):
    return Request(
        messages=({"role": "user", "content": text},),
        choices=choices,
        sampling=SamplingParams(temperature=0, max_new_tokens=6),
    )


def queue(*requests, more=None):
    made = Requests(more)
    for key, request in enumerate(requests):
        made.put(key, request)
    return made


def test_choices_are_scored_and_the_likeliest_is_the_text(loaded):
    ((_, made),) = loaded.stream(queue(ask("hello", "AB", "A", "xyz")), 4)
    assert made.text == ("AB", "A", "xyz")[made.scores.index(max(made.scores))]
    assert (made.finish_reason, made.completion_tokens) == ("stop", 0)
    assert made.prompt_tokens == len("<u>hello<a>") + 6
    assert made.scored_tokens == (3, 2, 4)


def test_of_equally_likely_choices_the_first_is_the_text(loaded, monkeypatch):
    monkeypatch.setattr(loaded_module, "score", lambda model, compared, replaced: [(-2.0, -1.0, -1.0)])
    ((_, made),) = loaded.stream(queue(ask("hello", "A", "B", "C")), 4)
    assert (made.text, made.scores) == ("B", (-2.0, -1.0, -1.0))


def test_the_choices_are_asked_for_in_their_own_role(loaded):
    request = Request(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    user = Request(messages=request.messages, role="user", choices=("c",))
    ((_, made),) = loaded.stream(queue(user), 4)
    assert made.prompt_tokens == len("<u>a<a>b<u>c")


def test_requests_to_be_written_and_to_be_scored_are_taken_from_one_queue(loaded):
    requests = [ask("one"), ask("two", "A", "B"), ask("three"), ask("four", "A"), ask("5" * 300), ask("6" * 300, "A")]
    made = dict(loaded.stream(queue(*requests), 4))
    assert sorted(made) == list(range(6))
    assert [made[key].completion_tokens > 0 for key in range(6)] == [True, False, True, False, False, False]
    assert [len(made[key].scores) for key in range(6)] == [0, 2, 0, 1, 0, 0]
    assert "fill the model's context of 200" in made[4].error
    assert "a choice's 1 are more than the model's context of 200" in made[5].error


@pytest.mark.parametrize("request_", [ask("two", "A", "B"), ask("5" * 300)], ids=["scored", "refused"])
def test_what_is_ready_is_given_back_before_more_is_taken_in(loaded, request_):
    """With nothing to be written at all: a run's next chunk isn't let in while this one's rows are held back."""
    put = []

    def more():
        if len(put) < 50:
            put.append(len(put))
            requests.put(f"more {len(put)}", request_)

    requests = queue(request_, request_, request_, more=more)
    stream = loaded.stream(requests, 4)
    first = [next(stream)[0] for _ in range(3)]
    assert (sorted(first), put) == ([0, 1, 2], [])
    assert next(stream)[0] == "more 1"
    assert put == [0]
    assert len(list(stream)) == 49


def test_what_is_ready_goes_out_though_a_row_is_being_written(loaded):
    put = []

    def more():
        if len(put) < 20:
            put.append(len(put))
            requests.put(f"more {len(put)}", ask("two", "A", "B"))

    requests = queue(ask("long"), more=more)
    order = [(key, len(put)) for key, _ in loaded.stream(requests, 2)]
    assert len(order) == 21
    assert max(now - place for place, (_, now) in enumerate(order)) <= 2


def test_as_many_are_scored_together_as_a_forward_takes(loaded, monkeypatch):
    together = []
    monkeypatch.setattr(intake, "FORWARD_TOKENS", 60)
    score = Loaded.score

    def note(self, compared):
        together.append(len(compared))
        return score(self, compared)

    monkeypatch.setattr(Loaded, "score", note)
    requests = [ask("x" * 10, "A") for _ in range(7)]  # 17 tokens each
    assert len(list(loaded.stream(queue(*requests), 4))) == 7
    assert together == [3, 3, 1]


def other_template(loaded, render):
    return replace(loaded, template=ChatTemplate("other", render))


def test_spaces_before_an_answer_are_read_as_part_of_it(loaded):
    def spaced(messages, generation_prompt):
        turns = [f"{message['role'][0]}: {message['content']}" for message in messages]
        return " ".join([*turns, "a:"] if generation_prompt else turns)

    other = other_template(loaded, spaced)
    assert other.prompt(ask("q")) == "u: q a:"
    assert other.prompt(ask("q", "b")) == "u: q a: "
    one = other.comparison(ask("q", "b"), "u: q a: ")
    assert (other.tokenizer.decode(one.prompt), other.tokenizer.decode(one.choices[0])) == ("u: q a:", " b")


class Words(Characters):
    """One that writes a space before every text, as those of Llama 2 and Mistral do."""

    def __call__(self, text, add_special_tokens):
        return super().__call__(f" {text}", add_special_tokens)


def test_a_tokenizer_that_puts_the_space_there_by_itself_puts_no_second_one(loaded):
    other = replace(loaded, tokenizer=Words())
    assert other.tokenizer.decode(other.comparison(ask("q", "b"), "[INST] q [/INST] ").choices[0]) == " b"


def test_an_empty_prompt_is_refused(loaded):
    other = other_template(loaded, lambda messages, prompt: "".join(message["content"] for message in messages))
    ((_, made),) = other.stream(queue(Request(messages=(), choices=("b",))), 4)
    assert "makes an empty prompt" in made.error


def test_conversations_that_are_answered_already_are_for_another_model(loaded):
    answered = Request(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    with pytest.raises(GenerationError, match=r"tiny writes texts or scores choices.*use RewardModel\(\.\.\.\)"):
        list(loaded.stream(queue(answered, answered), 4))
    made = dict(loaded.stream(queue(answered, ask("hello")), 4))
    assert "last turn is the assistant's already" in made[0].error
