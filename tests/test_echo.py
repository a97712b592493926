from hfsynth import EchoLLM, Request, SamplingParams


def ask(text, role="assistant", **options):
    return EchoLLM().complete([Request(messages=({"role": "user", "content": text},), role=role, **options)])[0]


def test_it_says_what_it_was_told_and_counts_words_as_tokens():
    completion = ask("a b c")
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b c", "stop", 3)


def test_it_is_cut_off_like_a_model():
    completion = ask("a b c", sampling=SamplingParams(max_new_tokens=2))
    assert (completion.text, completion.finish_reason, completion.completion_tokens) == ("a b", "length", 2)


def test_it_scores_choices_by_what_was_said_and_takes_the_likeliest():
    completion = ask("a b", choices=("yes", "no, never", "yes"))
    assert completion == ask("a b", choices=("yes", "no, never", "yes"))
    assert completion.scores[0] == completion.scores[2]
    assert completion.scores != ask("c", choices=("yes", "no, never", "yes")).scores
    assert completion.text == ("yes", "no, never")[completion.scores.index(max(completion.scores))]
    assert (completion.prompt_tokens, completion.completion_tokens, completion.scored_tokens) == (6, 0, (2, 3, 2))


def test_as_a_user_it_asks_by_its_seed():
    assert ask("a", "user", seed=1) == ask("a", "user", seed=1) != ask("a", "user", seed=2)
