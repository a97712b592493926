import json
import pickle
from pathlib import Path

import pytest
from datasets.fingerprint import Hasher

from hfsynth import WellFormed

SEEDS = [
    json.loads(line)["input"]
    for line in (Path(__file__).parents[2] / "scripts" / "seeds.jsonl").read_text().splitlines()
]
CODE = "if a:\n    return x\nelse:\n    return x\n}\n}\n}\nif b:\n    return x"


def rule(text, filter=None):
    drop = next((filter or WellFormed()).decide([text], []))
    return drop and drop.rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name a red fruit.", None),
        ("", "empty"),
        (" \n\t", "empty"),
        ("Translate this:\n", "colon"),
        ("翻译：", "colon"),
        ("Translate: this", None),
        ("Hi<|im_end|>", "marker"),
        ("Hi<|eot_id|>there", "marker"),
        ("Hi<｜Assistant｜>", "marker"),
        ("[INST] Hi", "marker"),
        ("<<SYS>> Hi", "marker"),
        ("Hi</s>", "marker"),
        ("Hi<end_of_turn>", "marker"),
        ("Name a fruit.\n### Response: A pear.", "marker"),
        ("Name a fruit.\nassistant\n\nA pear.", "marker"),
        ("Name a fruit.\nAssistant: A pear.", "marker"),
        ("What does an assistant: a good one, do?", None),
        ("a <|b| c |> d", None),
        ("In C, a<|b|>c is no operator, says ### Response", None),
        ("Go on like this.\n" * 3, "repeated_line"),
        ("Go on like this. And on. Go on like this! Or not. Go on LIKE this? Well.", "repeated_line"),
        ("再说一遍吧。再说一遍吧。再说一遍吧。", "repeated_line"),
        ("यही बात फिर कहिए। यही बात फिर कहिए। यही बात फिर कहिए।", "repeated_line"),
        ("قل ذلك مرة أخرى؟ قل ذلك مرة أخرى؟ قل ذلك مرة أخرى؟", "repeated_line"),
        ("다시 한번 말해 줘. 다시 한번 말해 줘. 다시 한번 말해 줘.", "repeated_line"),
        ("是的。是的。是的。我们星期一开门。", None),
        ("人工智能是什么？人工智能能做什么？人工智能有哪些风险？", None),
        ("コンピューターとは何か。コンピューターの歴史。コンピューターの未来。", None),
        ("ปัญญาประดิษฐ์คืออะไร ปัญญาประดิษฐ์ทำอะไรได้ ปัญญาประดิษฐ์มีความเสี่ยงอะไร", None),
        ("我们继续走下去吧，" * 6, "repeated_words"),
        ("もっともっと" * 12, "repeated_words"),
        ("ไปเรื่อยๆ" * 12, "repeated_words"),
        ("Go on like this.\n" * 2, None),
        ("Yes. Yes. Yes. We are open on Mondays.", None),
        (CODE, None),
        ("we go on and on and on and on and on and on and on", "repeated_words"),
        ("no " * 12, "repeated_words"),
        ("Compare the cost of living in Rome with the cost of living in Paris.", None),
    ],
)
def test_wellformed_each_rule_drops_its_texts(text, expected):
    assert rule(text) == expected


@pytest.mark.parametrize("text", SEEDS)
def test_wellformed_human_texts_are_kept(text):
    assert rule(text) is None


def test_wellformed_drop_holds_value_and_match():
    texts = ["One: two:", "Hi<|im_end|>", "Go on, then go.\n" * 4, "a b c d " * 5, " "]
    drops = list(WellFormed().decide(texts, []))
    assert [(drop.rule, drop.value) for drop in drops] == [
        ("colon", "two:"),
        ("marker", "<|im_end|>"),
        ("repeated_line", "go on then go"),
        ("repeated_words", "a b c d"),
        ("empty", "' '"),
    ]
    assert [drop.matched for drop in drops[2:4]] == ["4 times", "5 times, in 100% of the words"]


def test_wellformed_ngram_share_is_of_covered_words():
    text = "a b c d " * 3 + "other words that are not said again, eight"  # 12 of 20 words
    assert rule(text, WellFormed(ngram_share=0.6)) is None
    assert rule(text, WellFormed(ngram_share=0.59)) == "repeated_words"


def test_wellformed_word_limits_are_off_by_default():
    assert rule("one two three", WellFormed(min_words=4)) == "too_short"
    assert rule("one two three", WellFormed(max_words=2)) == "too_long"
    assert rule("one two three", WellFormed(min_words=3, max_words=3)) is None
    drop = next(WellFormed(max_words=2).decide(["one two three"], []))
    assert (drop.value, drop.matched) == ("3 words", "at most 2")


def test_wellformed_unspaced_scripts_count_signs():
    assert rule("写一首诗", WellFormed(min_words=5)) == "too_short"
    assert rule("写一首诗", WellFormed(min_words=4)) is None
    assert rule("写一首诗", WellFormed(max_words=2)) is None
    assert rule("写一首诗", WellFormed(max_words=1)) == "too_long"


def test_wellformed_rules_and_markers_are_fields():
    assert rule("Translate this:", WellFormed(rules=["empty"])) is None
    assert rule("Hi END", WellFormed(markers=[r"\bEND\b"])) == "marker"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": ["colons"]}, r"'colons'.*'empty', 'colon'"),
        ({"markers": ["("]}, r"WellFormed\.markers .*'\('"),
        ({"line_times": 1}, r"WellFormed\.line_times .*2.*\b1\."),
        ({"ngram": 0}, r"WellFormed\.ngram .*1.*\b0\."),
        ({"ngram_share": 1}, r"WellFormed\.ngram_share .*\b1\.$"),
        ({"min_words": 3, "max_words": 2}, r"WellFormed\.min_words .*max_words=2.*\b3\b"),
    ],
)
def test_wellformed_field_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        WellFormed(**fields)


def test_wellformed_equal_fields_have_one_hash():
    filter = WellFormed(rules=["colon", "empty"], markers=["x"])
    assert pickle.loads(pickle.dumps(filter)) == filter
    assert Hasher.hash(filter) == Hasher.hash(WellFormed(rules=("empty", "colon"), markers=("x",)))
