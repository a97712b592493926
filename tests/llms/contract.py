"""What every engine does, tried on one small chat model: a test class that inherits has a fixture `llm`.

`tests/llms/test_contract.py` shows the fixtures.
"""

import pickle

import pytest

from hfsynth import Request, SamplingParams
from hfsynth.config import Configuration
from hfsynth.llm import Requests
from tests.tiny_chat import byte_tokenizer

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=16)
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=16)


def ask(text, **options):
    return Request(messages=({"role": "user", "content": text},), **{"sampling": GREEDY, **options})


def texts(completions):
    return [completion.text for completion in completions]


class EngineContract:
    """Tests of an llm over the model of `tests.tiny_chat`."""

    tolerance = 1e-3
    """Largest difference of a score from naive forwards, in natural logarithms."""
    large_seed = 2**62 + 5
    """A seed whose lowest bits are those of 5."""

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, model_folder):
        """The model and its tokenizer, for naive forwards."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(model_folder).eval(), byte_tokenizer()

    def greedy(self, reference, prompt, count):
        """Generate token by token, and return the text before an end token."""
        import torch

        model, tokenizer = reference
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        start = len(ids)
        ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        with torch.inference_mode():
            while len(ids) < start + count:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in ends:
                    break
        return tokenizer.decode([token for token in ids[start:] if token not in ends], skip_special_tokens=True)

    @pytest.mark.parametrize("text", ["Hi", "Name a colour.", "the end", "日本語"])
    def test_greedy_text_equals_naive_forwards(self, llm, reference, text):
        prompt = f"<s><|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        assert llm.prompt(ask(text)) == prompt
        (completion,) = llm.complete([ask(text)])
        assert completion.text == self.greedy(reference, prompt, 16).strip()
        assert completion.prompt_tokens == len(reference[1](prompt, add_special_tokens=False).input_ids)
        assert 1 <= completion.completion_tokens <= 16

    def test_users_turn_equals_naive_forwards(self, llm, reference):
        assert not llm.lacks("user turn")
        request = Request(messages=(), role="user", sampling=GREEDY)
        assert llm.prompt(request) == "<s><|im_start|>user\n"
        (completion,) = llm.complete([request])
        assert completion.text == self.greedy(reference, "<s><|im_start|>user\n", 16).strip()

    def test_second_users_turn_follows_the_answer(self, llm, reference):
        turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"})
        request = Request(messages=turns, role="user", sampling=GREEDY)
        prompt = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\n"
        assert llm.prompt(request) == prompt
        assert texts(llm.complete([request])) == [self.greedy(reference, prompt, 16).strip()]

    def test_equal_seeds_write_equal_texts(self, llm):
        requests = [ask("Hi", seed=seed, sampling=SAMPLED) for seed in (5, 5, 6, self.large_seed)]
        first, second, other, large = texts(llm.complete(requests))
        assert first == second
        assert len({first, other, large}) == 3
        assert texts(llm.complete(requests[:1])) == [first]

    def test_stop_text_is_cut_off(self, llm):
        (long,) = llm.complete([ask("Hi")])
        assert len(long.text) >= 4
        stop = long.text[2:4]  # two tokens, most likely
        (cut,) = llm.complete([ask("Hi", sampling=SamplingParams(temperature=0.0, max_new_tokens=16, stop=(stop,)))])
        assert cut.text == long.text[: long.text.index(stop)].strip()
        assert cut.finish_reason == "stop"

    def test_finish_reason_is_length_where_text_is_cut(self, llm):
        (completion,) = llm.complete([ask("Hi", sampling=SamplingParams(temperature=0.0, max_new_tokens=2))])
        assert (completion.finish_reason, completion.completion_tokens) == ("length", 2)

    def test_scores_of_choices_equal_naive_forwards(self, llm, reference):
        """A choice's score has the tokens of the choice and the probability that the turn ends after it."""
        import torch

        assert not llm.lacks("choices")
        model, tokenizer = reference
        choices = ("yes", "no way", "the")
        (completion,) = llm.complete([ask("Hi", choices=choices)])
        prompt = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        for score, choice in zip(completion.scores, choices, strict=True):
            tokens = tokenizer(choice, add_special_tokens=False).input_ids
            with torch.inference_mode():
                logs = model(torch.tensor([ids + tokens])).logits[0].float().log_softmax(-1)
            places = range(len(ids) - 1, len(ids) - 1 + len(tokens))
            expected = sum(float(logs[place, token]) for place, token in zip(places, tokens, strict=True))
            expected += float(logs[-1, ends].logsumexp(0))
            assert score == pytest.approx(expected, abs=self.tolerance)
        assert completion.text == choices[completion.scores.index(max(completion.scores))]
        assert completion.scored_tokens == tuple(
            len(tokenizer(choice, add_special_tokens=False).input_ids) + 1 for choice in choices
        )

    def test_prompt_that_is_too_long_fails_its_row_alone(self, llm):
        completions = llm.complete([ask("Hi"), ask("x" * 600), ask("Hi")])
        assert [one.finish_reason == "refused" for one in completions] == [False, True, False]
        assert "512" in completions[1].error
        assert completions[0].text == completions[2].text

    def test_special_token_in_a_row_stays_text(self, llm):
        plain, marked = llm.complete([ask("a b"), ask("a<|im_end|>b")])
        assert plain.prompt_tokens + len("<|im_end|>") - 1 - marked.prompt_tokens in range(-2, 3)
        assert not marked.error

    def test_stream_gives_every_key_and_takes_more(self, llm):
        requests, order = Requests(), []
        for number in range(5):
            requests.put(number, ask(f"Say {number}"))
        for key, completion in llm.stream(requests):
            order.append(key)
            if key == 0:
                requests.put("next", ask(completion.text or "-"))
        assert sorted(map(str, order)) == ["0", "1", "2", "3", "4", "next"]

    def test_unloaded_llm_loads_at_the_next_request(self, llm):
        before = texts(llm.complete([ask("Hi")]))
        llm.unload()
        assert texts(llm.complete([ask("Hi")])) == before

    def test_pickled_llm_is_equal_configuration(self, llm):
        assert isinstance(llm, Configuration)
        copy = pickle.loads(pickle.dumps(llm))
        assert copy == llm
        assert copy.to_json() == llm.to_json()

    def test_same_rows_is_one_of_three_promises(self, llm):
        assert llm.same_rows in ("row", "chunk", "none")
        if llm.same_rows == "row":
            requests = [ask(f"Say {number}", seed=number, sampling=SAMPLED) for number in range(6)]
            together = texts(llm.complete(requests))
            assert [texts(llm.complete([request]))[0] for request in requests] == together
