import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from hfsynth import ChatTemplateError
from hfsynth.chat import ChatTemplate, turn_end
from hfsynth.thinking import THINKING, split_thinking
from tests.conftest import package_folder

TEMPLATES = {path.stem: path.read_text() for path in (package_folder("trl") / "chat_templates").glob("*.jinja")}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "image_token": "<image>"}
NO_SYSTEM = {"gemma", "gemma_training"}
WITH_PARTS = {name for name in TEMPLATES if name.startswith(("idefics3", "llava_next", "smolvlm"))}
TODAY = {name for name in TEMPLATES if "strftime_now" in TEMPLATES[name]}

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe Smol.<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# as Phi-4-mini's: the end of text whenever there is no generation prompt
ENDING = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)
# as Mistral-Small's: a date, roles that alternate, no role header for the user
ALTERNATING = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = 'Today is ' + strftime_now('%Y-%m-%d') %}"
    "{% set turns = messages %}{% endif %}[SYSTEM_PROMPT]{{ system }}[/SYSTEM_PROMPT]{% for m in turns %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


def template(source, name="a-model", bos_token=""):
    def render(messages, generation_prompt):
        rendered, _ = render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=generation_prompt, **TOKENS
        )
        return rendered[0]

    return ChatTemplate(name, render, bos_token)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


HISTORIES = {
    "first turn": [],
    "second turn": [user("What is tea?"), assistant("A drink.")],
    "third turn": [user("What is tea?"), assistant("A drink."), user("And coffee?"), assistant("Another.")],
    "second turn after spaces": [user("  What is tea?\n"), assistant("A drink.")],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_turn_of_every_real_template_reads_what_the_template_renders_before_it(name, history):
    """Whatever the user then says, the answer's prompt goes on from what the user's turn read."""
    chat = template(TEMPLATES[name], name)
    before = chat.prompt(history, "user")
    for text in ("Why is the sky blue?", "x", "Привет 👋"):
        answering = chat.prompt([*history, user(text)])
        assert answering.startswith(before + text)
        assert answering == before + text + chat.after_user
    for message in history:
        assert before.count(message["content"].strip()) == 1


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_real_template_shows_a_system_prompt_to_the_user_or_refuses_it_by_name(name):
    chat = template(TEMPLATES[name], name)
    if name in NO_SYSTEM:
        with pytest.raises(ChatTemplateError, match=f"chat template of {name} refuses a system role: System role not"):
            chat.prompt([system("Be brief.")], "user")
    else:
        before = chat.prompt([system("Be brief.")], "user")
        assert before.count("Be brief.") == 1
        assert chat.prompt([system("Be brief."), user("Hi")]).startswith(before + "Hi")


def test_the_templates_that_matter_are_among_those_tested():
    assert len(TEMPLATES) > 40
    assert {"llama3", "qwen3", "gemma", "deepseek_r1_distill", "gptoss", "smolvlm"} <= set(TEMPLATES)
    assert TODAY
    assert WITH_PARTS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3", "<s><|start_header_id|>user<|end_header_id|>\n\n"),
        ("qwen3", "<|im_start|>user\n"),
        ("gemma", "<s><start_of_turn>user\n"),
        ("deepseek_r1_distill", "<s><｜User｜>"),
        ("phi3", "<|user|>\n"),
        ("llava_next", "[INST] "),
        ("smolvlm", "<|im_start|>User: "),
    ],
)
def test_the_text_before_a_first_user_is_the_one_known_from_the_model(name, expected):
    assert template(TEMPLATES[name]).prompt([], "user") == expected


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_real_template_shows_an_answer_after_what_it_reads_before_one_but_for_thinking(name, history):
    chat = template(TEMPLATES[name], name, TOKENS["bos_token"])
    asked = [*history, user("Why is the sky blue?")]
    before, reads = chat.before_answer(asked), chat.prompt(asked)
    for text in ("Rayleigh scattering.", "x", "Привет 👋"):
        assert chat.conversation([*asked, assistant(text)]).startswith(before + text)
    if not before.startswith(reads.rstrip()):  # it opens thinking, which an answer has none of or closes
        opened = next(marks.opening for marks in THINKING if reads.rstrip().endswith(marks.opening))
        assert before.startswith(reads.rstrip().removesuffix(opened))
        assert before.partition(opened)[0].startswith(reads.rpartition(opened)[0].rstrip())


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_before_an_answer_to_nothing_every_real_template_puts_what_it_puts_before_any(name):
    chat = template(TEMPLATES[name], name, TOKENS["bos_token"])
    opening = chat.prompt([])
    assert opening == chat.before_answer([])
    begun = TOKENS["bos_token"] if chat.before_answer([user("Hi")]).startswith(TOKENS["bos_token"]) else ""
    assert opening.startswith(begun)
    for history in HISTORIES.values():
        asked = [*history, user("Hi there")]
        before = chat.before_answer(asked)
        assert before.endswith(opening.removeprefix(begun))
        assert "Hi there" not in opening
        turn = before.rpartition("Hi there")[2].removesuffix(opening.removeprefix(begun))
        assert chat.conversation(asked).rpartition("Hi there")[2].startswith(turn)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3", "<s><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("qwen2_5", "<|im_start|>assistant\n"),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("gemma", "<s><start_of_turn>model\n"),
        ("phi3", "<|assistant|>\n"),
        ("gptoss", "<|start|>assistant<|channel|>final<|message|>"),
        ("deepseek_r1_distill", "<s><｜Assistant｜>"),
    ],
)
def test_the_text_before_an_answer_to_nothing_is_the_one_known_from_the_model(name, expected):
    assert template(TEMPLATES[name], name, TOKENS["bos_token"]).prompt([]) == expected


def test_an_end_of_text_whose_marker_begins_like_the_answers_is_no_part_of_either():
    assert template(ENDING.replace("eos_token", "'<|endoftext|>'")).prompt([]) == "<|assistant|>"


def test_one_token_that_begins_both_texts_and_turns_is_there_once():
    assert template(CHATML, bos_token="<|im_start|>").prompt([]) == "<|im_start|>assistant\n"


def test_a_template_whose_answers_prompt_depends_on_the_answer_is_refused():
    source = "{% for m in messages %}[{{ m['content'][0] }} {{ m['content'] }}]{% endfor %}"
    with pytest.raises(ChatTemplateError, match="what stands before the answer's text depends on it"):
        template(source).before_answer([user("a")])


def test_a_template_that_shows_no_answer_is_read_as_before_writing_one():
    source = "[{{ messages[-1]['content'] }}]{% if add_generation_prompt %}>{% endif %}"
    assert template(source).before_answer([user("a")]) == "[a]>"


def test_r1_opens_its_thinking_for_answers_only_and_drops_it_from_the_history():
    chat = template(TEMPLATES["deepseek_r1_distill"])
    assert chat.prompt([user("Hi")]).endswith("<｜Assistant｜><think>\n")
    history = [user("Hi"), assistant("<think>\nhm\n</think>\n\nHello")]
    assert chat.prompt(history, "user") == "<s><｜User｜>Hi<｜Assistant｜>\n\nHello<｜end▁of▁sentence｜><｜User｜>"


def test_a_default_system_prompt_is_the_same_for_the_user_and_the_answer():
    chat = template(CHATML)
    default = "<|im_start|>system\nBe Smol.<|im_end|>\n"
    assert chat.prompt([], "user") == default + "<|im_start|>user\n"
    assert chat.prompt([user("Hi")]) == default + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chat.prompt([system("Math.")], "user") == "<|im_start|>system\nMath.<|im_end|>\n<|im_start|>user\n"


def test_an_end_token_that_comes_only_without_a_generation_prompt_is_not_in_the_prompt():
    chat = template(ENDING)
    assert chat.prompt([], "user") == "<|user|>"
    second = "<|user|>a<|end|><|assistant|>b<|end|><|user|>"
    assert chat.prompt([user("a"), assistant("b")], "user") == second


def test_roles_that_must_alternate_do_and_a_conversation_that_does_not_is_refused_by_name():
    chat = template(ALTERNATING, "mistral")
    assert chat.prompt([system("S"), user("a"), assistant("b")], "user") == (
        "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]a[/INST]b</s>[INST]"
    )
    with pytest.raises(ChatTemplateError, match="template of mistral refuses the conversation: roles must alternate"):
        chat.prompt([user("a"), user("b")])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ messages[0]['role'] }}:", "can't speak as a user: it shows the user's text 0 times"),
        ("{{ messages[0]['content'] * 2 }}", "can't speak as a user: it shows the user's text 2 times"),
        ("{{ raise_exception('no users') }}", "can't speak as a user: no users"),
    ],
)
def test_a_template_that_can_not_speak_as_a_user_says_why(source, message):
    with pytest.raises(ChatTemplateError, match=f"chat template of odd {message}"):
        template(source, "odd").prompt([], "user")


def test_a_template_whose_prompt_depends_on_the_users_text_is_refused():
    source = "{% for m in messages %}{{ m['content'] | length }} {{ m['content'] }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="what stands before the user's text depends on it"):
        template(source).prompt([], "user")


def test_a_template_that_drops_the_system_prompt_silently_is_refused():
    source = "{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}]{% endfor %}"
    with pytest.raises(ChatTemplateError, match="refuses a system role: it shows the system's text 0 times"):
        template(source).prompt([system("S")], "user")


def test_a_template_that_shows_only_the_last_turn_has_no_second_turn():
    with pytest.raises(ChatTemplateError, match="has no second turn"):
        template("[{{ messages[-1]['content'] }}]").prompt([user("a"), assistant("b")], "user")


def test_a_template_with_nothing_before_the_user_can_not_speak_as_one():
    with pytest.raises(ChatTemplateError, match="of odd can't speak as a user: nothing stands before a user's text"):
        template("{% for m in messages %}{{ m.content }}\n{% endfor %}", "odd").prompt([], "user")


def test_a_users_turn_ends_where_any_answer_begins_thinking_or_not():
    assert template(TEMPLATES["deepseek_r1_distill"]).user_end == "<｜Assistant｜>"
    assert template(TEMPLATES["gptoss"]).user_end == "<|end|><|start|>assistant"
    assert template(CHATML).user_end == "<|im_end|>\n<|im_start|>assistant\n"


def test_nobody_speaks_twice():
    with pytest.raises(ChatTemplateError, match="last turn is the user's already"):
        template(CHATML).prompt([user("a")], "user")


@pytest.mark.parametrize(
    ("after", "special", "expected"),
    [
        (
            "<|eot_id|><|start_header_id|>assistant",
            ["<|start_header_id|>", "<|eot_id|>"],
            ("<|eot_id|>", "<|start_header_id|>"),
        ),
        ("<end_of_utterance>\nAssistant:", ["<end_of_utterance>"], ("<end_of_utterance>",)),
        ("", ["</s>"], ()),
    ],
)
def test_a_users_turn_ends_at_the_special_tokens_that_follow_it(after, special, expected):
    assert turn_end(after, special) == (expected, "")


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("", "<think>\na\n</think>\n\nb", ("a", "b")),
        ("<think>\n", "a</think>b", ("a", "b")),
        ("<think>", "cut off", ("cut off", "")),
        ("<think>\n\n</think>\n\n", "b", (None, "b")),
        ("", "b about </think> tags", (None, "b about </think> tags")),
        ("", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", ("a", "b")),
        ("", "<|channel|>final<|message|>b", (None, "b")),
        ("", "<|channel>thought\na<channel|>b", ("a", "b")),
        ("", "[THINK]a[/THINK]b", ("a", "b")),
    ],
)
def test_thinking_is_parted_from_the_answer(prompt, text, expected):
    assert split_thinking(prompt, text) == expected


@pytest.mark.parametrize("role", ["critic", "tool", "developer"])
def test_a_role_that_a_template_leaves_out_is_refused(role):
    source = CHATML.replace(
        "{{ '<|im_start|>'", "{% if m['role'] in ('user', 'assistant') %}{{ '<|im_start|>'"
    ).replace("'\n' }}{% endfor %}", "'\n' }}{% endif %}{% endfor %}")
    turns = [user("a"), {"role": role, "content": "b"}]
    with pytest.raises(ChatTemplateError, match=rf"template of a-model leaves out turns of the role '{role}'"):
        template(source).prompt(turns)
    assert "b<|im_end|>" in template(CHATML).prompt(turns)
