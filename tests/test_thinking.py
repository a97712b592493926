import pytest

from hfsynth.thinking import ThinkingMarkers, split_thinking
from tests.test_chat import TEMPLATES, template, user

HEADER = "{% for m in messages %}<|{{ m.role }}|>\n"
PROMPT = "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
END = "{% endif %}"


def thinking_template(field, opening, closing, prompt="", after="<|end|>\n", condition="loop.last"):
    """A template that shows the thoughts of its last turn alone, between these texts."""
    return (
        HEADER + f"{{% if m.{field} and {condition} %}}{opening}{{{{ m.{field} }}}}{closing}{{% endif %}}"
        f"{{{{ m.content }}}}{after}{PROMPT}{prompt}{END}"
    )


STYLES = {
    "think": ("reasoning_content", "<think>\n", "\n</think>\n\n"),
    "pipes": ("reasoning", "<|thinking|>", "<|/thinking|>"),
    "thought": ("thinking", "<thought>\n", "\n</thought>\n"),
    "brackets": ("reasoning_content", "[THOUGHTS]", "[/THOUGHTS]"),
    "seed": ("reasoning_content", "<seed:think>", "</seed:think>"),
    "minimax": ("reasoning", "<minimax:think>\n", "\n</minimax:think>\n"),
    "begin of thought": ("thinking", "<|begin_of_thought|>\n", "\n<|end_of_thought|>\n\n"),
    "channels": ("thinking", "<|channel|>inner<|message|>", "<|end|><|assistant|><|channel|>outer<|message|>"),
    "turns": ("reasoning", "<|think|>", "<|end|><|begin|>assistant<|content|>"),
    "steps": ("reasoning", "Let me think step by step:\n", "\n[BEGIN ANSWER]\n"),
    "answer tags": ("reasoning_content", "<think>\n", "\n</think>\n<answer>\n"),
    "lenticular": ("thought", "◁reflect▷", "◁/reflect▷"),
}


@pytest.mark.parametrize("is_prompted", [False, True])
@pytest.mark.parametrize(("field", "opening", "closing"), STYLES.values(), ids=STYLES.keys())
def test_thoughts_are_parted_as_the_template_marks_them(field, opening, closing, is_prompted):
    chat = template(thinking_template(field, opening, closing, opening if is_prompted else ""))
    prompt = chat.prompt([user("Hi")])
    assert prompt.endswith(opening) is is_prompted
    written = "First.\nSecond." + closing + "Four."
    for text in [written, opening + written] if is_prompted else [opening + written, "\n" + opening + written]:
        assert split_thinking(prompt, text, chat.thinking) == ("First.\nSecond.", "Four.")
    cut = "First.\nSec" if is_prompted else opening + "First.\nSec"
    assert split_thinking(prompt, cut, chat.thinking) == ("First.\nSec", "")
    if not is_prompted:
        assert split_thinking(prompt, "Four.", chat.thinking) == (None, "Four.")


@pytest.mark.parametrize("name", ["think", "thought", "brackets", "seed", "minimax"])
def test_several_thoughts_are_all_parted(name):
    field, opening, closing = STYLES[name]
    chat = template(thinking_template(field, opening, closing))
    first, second = (f"{opening}{thought}{closing}" for thought in "ab")
    prompt = chat.prompt([user("Hi")])
    assert split_thinking(prompt, first + second + "Four.", chat.thinking) == ("a\n\nb", "Four.")
    assert split_thinking(prompt, f"{first}Two,\n{second}four.", chat.thinking) == ("a\n\nb", "Two,\nfour.")


def test_tags_within_an_answer_without_thoughts_stay():
    chat = template(thinking_template(*STYLES["think"]))
    for text in ("Use <think> and </think>.", "As:\n<think>\na\n</think>\nb"):
        assert split_thinking("<|assistant|>\n", text, chat.thinking) == (None, text)


def test_split_thinking_cuts_the_answer_end():
    source = thinking_template("reasoning", "<think>", "</think>\n<answer>", after="</answer><|end|>\n")
    chat = template(source)
    for text in ("<think>a</think>\n<answer>b</answer>", "<think>a</think><answer>b</answer>", "<think>a</think>b"):
        assert split_thinking("", text, chat.thinking) == ("a", "b")


def test_a_template_that_shows_thoughts_only_if_asked_is_asked():
    source = thinking_template("reasoning", "<muse>", "</muse>", condition="enable_thinking")
    plain, asked = (template(f"{{% set enable_thinking = {value} %}}" + source) for value in ("false", "true"))
    chat = type(plain)("a-model", plain.render, "", asked.render)
    assert split_thinking("", "<muse>a</muse>b", plain.thinking) == (None, "<muse>a</muse>b")
    assert split_thinking("", "<muse>a</muse>b", chat.thinking) == ("a", "b")


def test_thoughts_in_a_content_part_are_found():
    source = (
        HEADER + "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'thinking' %}[REFLECT]{{ part.thinking }}[/REFLECT]{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}" + PROMPT + END
    )
    assert split_thinking("", "[REFLECT]a[/REFLECT]b", template(source).thinking) == ("a", "b")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<muse>\n", "</muse>"), ("[MUSE]", "[/MUSE]"), ("<|start_of_muse|>", "<|end_of_muse|>"), ("◁muse▷", "◁/muse▷")],
)
def test_marker_of_the_prompt_closes_by_counterpart(opening, closing):
    chat = template(HEADER + "{{ m.content }}<|end|>\n" + PROMPT + opening + END)
    assert split_thinking(chat.prompt([user("Hi")]), f"a\n{closing}\n\nb", chat.thinking) == ("a", "b")


def test_a_header_that_ends_in_a_marker_opens_no_thoughts():
    chat = template(HEADER.rstrip() + "{{ m.content }}" + PROMPT.rstrip() + END)
    assert split_thinking(chat.prompt([user("Hi")]), "Four.", chat.thinking) == (None, "Four.")


REAL = {
    "qwen3": "<think>\na\n</think>\n\nb",
    "glm4moe": "<think>a</think>\nb",
    "gptoss": "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
    "muse_glimmer": " to=self<|message|>a<|eom|><|start|>assistant to=user<|message|>b",
    "nemotron_3_nano": "a\n</think>\nb",
    "deepseek_r1_distill": "a\n</think>\n\nb",
    "gemma4_v5": "<|channel>thought\na<channel|>b",
    "gemma4": "<|channel>thought\na<channel|>b",
    "lfm2_2_5": "<think>a</think>b",
}


@pytest.mark.parametrize(("name", "written"), REAL.items())
def test_thoughts_of_real_templates_are_parted(name, written):
    chat = template(TEMPLATES[name], name)
    assert split_thinking(chat.prompt([user("Hi")]), written, chat.thinking) == ("a", "b")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_no_real_template_takes_a_plain_answer_for_thoughts(name):
    chat = template(TEMPLATES[name], name)
    opened = [marks for marks in chat.thinking if chat.prompt([user("Hi")]).rstrip().endswith(marks.opening)]
    assert split_thinking("", "Hello there.\n\nBye.", chat.thinking) == (None, "Hello there.\n\nBye.")
    assert [marks.opening for marks in opened] in ([], ["<think>"], ["<think>"] * 2)


def test_an_answer_that_begins_directly_is_without_its_marker():
    marks = ThinkingMarkers(" to=self<|m|>".strip(), "<|eom|>", direct="to=user<|m|>")
    assert split_thinking("", " to=user<|m|>Hello", [marks]) == (None, "Hello")
