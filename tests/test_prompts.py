import pytest

from hfsynth import RowError
from hfsynth.prompts import check_prompt, prompt_variables, render_prompt


def test_none_is_written_as_nothing():
    assert render_prompt("[{{ a }}]", {"a": None}) == "[]"


def test_a_name_that_is_not_there_fails_the_row():
    with pytest.raises(RowError, match="'b' is undefined"):
        render_prompt("{{ b }}", {"a": 1})


def test_text_in_a_value_is_never_run_as_a_template():
    assert render_prompt("{{ a }}", {"a": "{{ 7 * 7 }}"}) == "{{ 7 * 7 }}"


def test_a_prompt_cannot_reach_out_of_its_sandbox():
    with pytest.raises(RowError, match="unsafe"):
        render_prompt("{{ a.__class__.__mro__[1].__subclasses__() }}", {"a": ""})


def test_a_broken_template_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match=r"'\{\{ a' is not a Jinja2 template"):
        prompt_variables("{{ a")


def test_a_prompt_that_reads_what_it_is_not_given_is_an_error_that_lists_both():
    with pytest.raises(ValueError, match=r"X\.prompt reads \['c'\]; a prompt there may read \['a', 'b'\]"):
        check_prompt("X.prompt", "{{ a }} {{ c }}", ("a", "b"))
