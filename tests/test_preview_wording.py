import json

from hfsynth.dry_run import Call, TriedRow, pieces, visible
from hfsynth.llm import Completion


def test_what_a_terminal_obeys_is_shown_as_signs():
    assert visible("a\x1bb\x7fc\x9bd\r") == "a␛b␡c<U+009B>d␍"
    assert visible("\u202e\u2066\u2028\ufeff\ud800") == "<U+202E><U+2066><U+2028><U+FEFF><U+D800>"


def test_lines_tabs_spaces_and_joined_signs_stay_as_they_are():
    text = "c\nd\te\u00a0f\u3000\u0645\u06cc\u200c\u062e 👩\u200d💻"
    assert visible(text) == text


def test_lists_and_dicts_are_shown_as_json_on_lines_of_their_own_where_they_are_long():
    messages = [{"role": "user", "content": f"Größe {'!' * 80}"}]
    shown = {name: text for _, name, text in pieces(TriedRow(0, made=({"short": [1, None], "long": messages},)))}
    assert shown["short"] == "[1, null]"
    assert shown["long"].startswith('[\n  {\n    "role": "user",\n    "content": "Größe !')
    assert json.loads(shown["long"]) == messages


def test_other_values_are_shown_as_python_has_them():
    shown = [text for *_, text in pieces(TriedRow(0, made=({"a": None, "b": True, "c": 1.5, "d": "x"},)))]
    assert shown == ["None", "True", "1.5", "x"]


def test_choices_are_shown_with_their_scores_the_best_first():
    completion = Completion(text="b", finish_reason="stop", prompt_tokens=7, scores=(-2.0, -0.5))
    (_, (_, how, scored)) = pieces(TriedRow(0, (Call("p", "", completion, ("a", "b")),)))
    assert how == "it finds, of 2 choices (7 tokens read)"
    assert scored == "   -0.500  b\n   -2.000  a"
