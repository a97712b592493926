from hfsynth import EchoLLM, Request, SamplingParams


def ask(text, role="assistant", **options):
    return EchoLLM().complete([Request(messages=({"role": "user", "content": text},), role=role, **options)])[0]


def test_echo_returns_the_last_message():
    completion = ask("a b c")
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b c", "stop", 3)


def test_echo_is_cut_off_at_max_new_tokens():
    completion = ask("a b c", sampling=SamplingParams(max_new_tokens=2))
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b", "length", 2)


def test_echo_scores_choices_by_the_conversation():
    completion = ask("a b", choices=("yes", "no, never", "yes"))
    assert completion == ask("a b", choices=("yes", "no, never", "yes"))
    assert completion.scores[0] == completion.scores[2]
    assert completion.scores != ask("c", choices=("yes", "no, never", "yes")).scores
    assert completion.text == ("yes", "no, never")[completion.scores.index(max(completion.scores))]
    assert (completion.prompt_tokens, completion.completion_tokens, completion.scored_tokens) == (6, 0, (2, 3, 2))


def test_echo_as_a_user_asks_by_its_seed():
    assert ask("a", "user", seed=1) == ask("a", "user", seed=1) != ask("a", "user", seed=2)
