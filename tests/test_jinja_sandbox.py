import time
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pytest

from hfsynth import RowError
from hfsynth.jinja_sandbox import check_prompt, prompt_variables, render_prompt


def test_render_prompt_none_is_empty():
    assert render_prompt("[{{ a }}]", {"a": None}) == "[]"


def test_render_prompt_undefined_name_fails_the_row():
    with pytest.raises(RowError, match="'b' is undefined"):
        render_prompt("{{ b }}", {"a": 1})


def test_render_prompt_values_are_no_templates():
    assert render_prompt("{{ a }}", {"a": "{{ 7 * 7 }}"}) == "{{ 7 * 7 }}"


def test_render_prompt_unsafe_attribute_fails():
    with pytest.raises(RowError, match="unsafe"):
        render_prompt("{{ a.__class__.__mro__[1].__subclasses__() }}", {"a": ""})


def test_prompt_variables_syntax_error_shows_the_template():
    with pytest.raises(ValueError, match=r"'\{\{ a'.*template"):
        prompt_variables("{{ a")


def test_check_prompt_unknown_name_lists_the_allowed():
    with pytest.raises(ValueError, match=r"X\.prompt .*\['a', 'b'\].*\['c'\]"):
        check_prompt("X.prompt", "{{ a }} {{ c }}", ("a", "b"))


class Image:
    """As an image of Pillow: it can write a file."""

    def __init__(self):
        self.saved = []

    def save(self, path):
        self.saved.append(path)


@pytest.mark.parametrize("nest", [lambda one: one, lambda one: [one], lambda one: [{"image": one}]])
@pytest.mark.parametrize("value", [Image(), b"bytes", print, Image, {1, 2}, object()], ids=type)
def test_prompt_with_an_object_fails_and_calls_nothing(value, nest):
    with pytest.raises(RowError, match=rf"column 'picture' has a value of type {type(value).__name__};"):
        render_prompt("{{ picture.save('/tmp/x') }}", {"picture": nest(value)})
    assert getattr(value, "saved", []) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        (1.5, "1.5"),
        (True, "True"),
        (np.float64(0.5), "0.5"),
        (np.array([1, 2]), "[1, 2]"),
        (("a", "b"), "['a', 'b']"),
        (datetime(2026, 1, 2, 3, 4), "2026-01-02 03:04:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.10"), "1.10"),
        ({"a": [1, {"b": 2}]}, "{'a': [1, {'b': 2}]}"),
    ],
)
def test_render_prompt_plain_values_as_python_writes(value, expected):
    assert render_prompt("{{ value }}", {"value": value}) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ a }}",
        "{{ a ~ '' }}",
        "{{ a | upper }}",
        "{{ a | trim }}",
        "{{ a | string }}",
        "{{ '%s' % a }}",
        "{{ '{}'.format(a) }}",
        "{{ [a] | join(', ') }}",
        "{{ nested | join }}",
        "{{ nested[0] ~ deep.b ~ none }}",
        "{% for one in nested %}{{ one }}{% endfor %}",
        "{% for one in a %}{{ one }}{% endfor %}",
        "{% if a is not none or a != none or not a is none or a %}None{% endif %}",
        "{{ a | default('', true) }}",
        "{% set b = a %}{{ b }}",
    ],
)
def test_render_prompt_none_is_empty_anywhere(template):
    assert render_prompt(template, {"a": None, "nested": [None, None], "deep": {"b": None}}) == ""


def test_render_prompt_none_is_null_in_json():
    assert render_prompt("{{ a | tojson }}", {"a": {"b": [None, "c"]}}) == '{"b": [null, "c"]}'
    assert render_prompt("{{ a is none }} {{ a == none }} {{ a is defined }}", {"a": None}) == "True True True"
    assert render_prompt("{% if a is none %}no input{% else %}{{ a }}{% endif %}", {"a": None}) == "no input"


GROWING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = NEXT %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [1] * 10**9 }}",
        "{{ a * 10**9 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
        "{% for i in range(99999) %}{{ a.upper() * 99999 }}{% endfor %}",
        "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ (9 ** 3000) * (9 ** 3000) }}",
        "{{ 2.0 ** 100000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%(a)999999999s' % {'a': 1} }}",
        "{{ ('%1000000s' * 99) % ((1,) * 99) }}",
        "{{ ('%s' * 9999) % (('a' * 9999,) * 9999) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:999999999d}'.format(1) }}",
        "{{ '{0:>999999999}'.format(a) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '{b:999999999}'.format_map({'b': 1}) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ a.center(10**9) }}",
        "{{ a.ljust(width) }}",
        "{{ '0'.zfill(10**9) }}",
        "{{ 'a\tb'.expandtabs(10**9) }}",
        "{{ 'a\nb' | indent(10**9) }}",
        "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6).replace('', 'b' * 10**6) }}",
        "{{ range(99999) | join('x' * 10**6) }}",
        "{{ ('x' * 10**6).join('abcdefghi' * 9999) }}",
        "{{ ['a' * 99999] * 99999 | join }}",
        "{{ ('a ' * 10**5) | wordwrap(1, True, 'b' * 10**5) }}",
        "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
        "{{ [1] | batch(10**9, 0) | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ [[1]] | tojson(indent=10**9) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ range(99999) | map('center', 99999) | list }}",
        "{{ lipsum(n=10**9) }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
        GROWING.replace("START", "'ab'").replace("NEXT", "ns.x ~ ns.x"),
        GROWING.replace("START", "'ab'").replace("NEXT", "ns.x + ns.x"),
        GROWING.replace("START", "'ab'").replace("NEXT", "ns.x | replace('a', 'aa') | replace('b', 'bb')"),
        GROWING.replace("START", "'ab'").replace(" = NEXT %}", " %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        *[
            GROWING.replace("START", "['a']").replace("NEXT", "[ns.x, ns.x]") + written
            for written in ("{{ ns.x }}", "{{ ns.x | upper }}", "{{ ns.x ~ '' }}", "{{ '%s' % (ns.x,) }}")
        ],
    ],
)
def test_render_prompt_unbounded_template_fails_soon(template):
    began = time.monotonic()
    with pytest.raises(RowError, match="the prompt could not be rendered: ") as caught:
        render_prompt(template, {"a": "x", "width": 10**9})
    assert template[:20].strip("'\"").split("\t")[0].split("\n")[0] in str(caught.value)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ 'a' * 3 ~ (1 + 2) }}", "aaa3"),
        ("{{ '%05.1f|%s' % (2, 'b') }}", "002.0|b"),
        ("{{ '{:>4}|{:,}'.format(7, 8000000000) }}", "   7|8,000,000,000"),
        ("{{ 'Phone 99999999: %s' % 'x' }}", "Phone 99999999: x"),
        ("{{ xs | map('upper') | join('-') }}", "A-B"),
        ("{{ xs | join('-') | indent(2) | center(7) | replace('-', '+') }}", "  a+b  "),
        ("{% for x in xs if x != 'a' %}{{ loop.index }}/{{ loop.length }}{{ x }}{% endfor %}", "1/1b"),
        ("{% for k, v in {'a': 1} | dictsort %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ f(2) }}", "<a><2>"),
        ("{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 10 }} {{ 1 / 4 }}", "3 3 1024 0.25"),
        ("{{ '\t'.join(xs).expandtabs(2) }}", "a b"),
        ("{{ xs | batch(2) | list }}{{ xs | length }}", "[['a', 'b']]2"),
        ("{{ 'one two' | wordwrap(3) }}", "one\ntwo"),
        ("{{ xs | tojson(indent=1) | length }}", "14"),
    ],
)
def test_render_prompt_templates_in_use_equal_jinja(template, expected):
    assert render_prompt(template, {"xs": ["a", "b"]}) == expected


def test_render_prompt_long_document_fits():
    text = "A line of text with several words.\n" * 20_000
    assert len(render_prompt("{{ t | trim }}{{ t | upper | indent(2) }}", {"t": text})) > 1_400_000
