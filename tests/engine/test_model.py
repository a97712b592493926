"""A loaded model with random weights and a tokenizer of ASCII characters; the queue of requests."""

from types import SimpleNamespace

import pytest

from hfsynth import ChatTemplateError, GenerationError, Request, SamplingParams
from hfsynth.chat import ChatTemplate, ChatTokenizer
from hfsynth.engine import model as model_module
from hfsynth.engine.model import CausalLM
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
    spoken = "".join(f"<{message['role'][0]}>{message['content']}" for message in messages)
    return spoken + ("<a>" if generation_prompt else "")


@pytest.fixture(scope="module")
def loaded():
    chat = ChatTokenizer(Characters(), ChatTemplate("tiny", render), frozenset({5}), 200)
    return CausalLM(tiny(vocab_size=128), chat)


def ask(text, *choices):
    return Request(
        messages=({"role": "user", "content": text},),
        choices=choices,
        sampling=SamplingParams(temperature=0, max_new_tokens=6),
    )


def queue(*requests, more=None):
    result = Requests(more)
    for key, request in enumerate(requests):
        result.put(key, request)
    return result


def test_choices_are_scored_and_the_likeliest_is_the_text(loaded):
    ((_, result),) = loaded.stream(queue(ask("hello", "AB", "A", "xyz")), 4)
    assert result.text == ("AB", "A", "xyz")[result.scores.index(max(result.scores))]
    assert (result.finish_reason, result.completion_tokens) == ("stop", 0)
    assert result.prompt_tokens == len("<u>hello<a>") + 6
    assert result.scored_tokens == (3, 2, 4)


def test_of_equally_likely_choices_the_first_is_the_text(loaded, monkeypatch):
    monkeypatch.setattr(model_module, "score", lambda model, compared, is_replaced: [(-2.0, -1.0, -1.0)])
    ((_, result),) = loaded.stream(queue(ask("hello", "A", "B", "C")), 4)
    assert (result.text, result.scores) == ("B", (-2.0, -1.0, -1.0))


def test_the_choices_are_asked_for_in_their_own_role(loaded):
    request = Request(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    user = Request(messages=request.messages, role="user", choices=("c",))
    ((_, result),) = loaded.stream(queue(user), 4)
    assert result.prompt_tokens == len("<u>a<a>b<u>c")


def test_stream_mixes_generated_scored_and_refused(loaded):
    requests = [ask("one"), ask("two", "A", "B"), ask("three"), ask("four", "A"), ask("5" * 300), ask("6" * 300, "A")]
    result = dict(loaded.stream(queue(*requests), 4))
    assert sorted(result) == list(range(6))
    assert [result[key].completion_tokens > 0 for key in range(6)] == [True, False, True, False, False, False]
    assert [len(result[key].scores) for key in range(6)] == [0, 2, 0, 1, 0, 0]
    assert "fill the model's context of 200" in result[4].error
    assert "a choice's 1 are more than the model's context of 200" in result[5].error


@pytest.mark.parametrize("request_", [ask("two", "A", "B"), ask("5" * 300)], ids=["scored", "refused"])
def test_stream_returns_ready_completions_before_it_takes(loaded, request_):
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


def test_stream_returns_scores_while_a_row_is_decoded(loaded):
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
    monkeypatch.setattr(model_module, "FORWARD_TOKENS", 60)
    score = model_module.score

    def note(model, compared, is_replaced):
        together.append(len(compared))
        return score(model, compared, is_replaced)

    monkeypatch.setattr(model_module, "score", note)
    requests = [ask("x" * 10, "A") for _ in range(7)]  # 17 tokens each
    assert len(list(loaded.stream(queue(*requests), 4))) == 7
    assert together == [3, 3, 1]


def with_template(render, tokenizer=None):
    return ChatTokenizer(tokenizer or Characters(), ChatTemplate("other", render), frozenset({5}), 200)


def test_tokenize_choices_moves_spaces_to_the_choice():
    def spaced(messages, generation_prompt):
        turns = [f"{message['role'][0]}: {message['content']}" for message in messages]
        return " ".join([*turns, "a:"] if generation_prompt else turns)

    other = with_template(spaced)
    assert other.prompt(ask("q")) == "u: q a:"
    assert other.prompt(ask("q", "b")) == "u: q a: "
    one = other.tokenize_choices(ask("q", "b"), "u: q a: ")
    assert (other.decode(one.prompt_ids), other.decode(one.choices[0])) == ("u: q a:", " b")


class Words(Characters):
    """One that writes a space before every text, as those of Llama 2 and Mistral do."""

    def __call__(self, text, add_special_tokens):
        return super().__call__(f" {text}", add_special_tokens)


def test_tokenize_choices_adds_no_second_space():
    other = with_template(render, Words())
    assert other.decode(other.tokenize_choices(ask("q", "b"), "[INST] q [/INST] ").choices[0]) == " b"


def test_an_empty_prompt_is_refused():
    chat = with_template(lambda messages, prompt: "".join(message["content"] for message in messages))
    with pytest.raises(ChatTemplateError, match="empty prompt"):
        chat.tokenize_choices(Request(messages=(), choices=("b",)), chat.prompt(Request(messages=(), choices=("b",))))


def test_stream_of_answered_conversations_raises(loaded):
    answered = Request(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    with pytest.raises(GenerationError, match=r"tiny .*RewardModel"):
        list(loaded.stream(queue(answered, answered), 4))
    result = dict(loaded.stream(queue(answered, ask("hello")), 4))
    assert "last turn is the assistant's already" in result[0].error
