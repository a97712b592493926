import pytest
from datasets import Dataset

from hfsynth import RowError
from hfsynth.techniques.self_instruct_instances import (
    Instance,
    SelfInstructInstances,
    clean_instances,
    parse_instances,
)
from tests.helpers import RepeatingLLM, drive, say

YES, NO = say("Yes"), say("No")


def flow(instruction="Sort the numbers.", **fields):
    return SelfInstructInstances(RepeatingLLM(), **fields).flow({"instruction": instruction}, None)


def test_instances_first_request_asks_for_classification():
    request = next(flow("Say which animal it is."))
    assert request.choices == ("Yes", "No")
    assert request.messages[0]["content"].endswith("Task: Say which animal it is.\nClassification:")


def test_instances_classification_writes_output_first():
    requests, rows = drive(flow(), YES, say("Label: Odd\nInput: 3\nLabel: Even\nInput: 4"))
    assert "for each possible label an input" in requests[1].messages[0]["content"]
    assert rows == [
        {"input": "3", "response": "Odd", "is_classification": True, "dropped_instances": []},
        {"input": "4", "response": "Even", "is_classification": True, "dropped_instances": []},
    ]


def test_instances_other_task_writes_input_first():
    requests, rows = drive(flow(), NO, say("Example 1\nInput: 3, 1\nOutput: 1, 3"))
    assert "write one and then the output" in requests[1].messages[0]["content"]
    assert rows == [{"input": "3, 1", "response": "1, 3", "is_classification": False, "dropped_instances": []}]


def test_instances_default_sampling_is_the_papers():
    (_, first), _ = drive(flow(), NO, say("Output: a"))
    (_, second), _ = drive(flow(), YES, say("Label: a\nInput: b"))
    assert [(one.sampling.temperature, one.sampling.presence_penalty) for one in (first, second)] == [(0.0, 1.5)] * 2
    assert (first.sampling.max_new_tokens, second.sampling.max_new_tokens) == (350, 300)


@pytest.mark.parametrize(
    ("dropped", "rule"),
    [
        (Instance("same", "same"), "copied"),
        (Instance("a", ""), "empty"),
        (Instance("a:", "b"), "colon"),
        (Instance("a", "b:"), "colon"),
    ],
    ids=str,
)
def test_clean_instances_drops_by_rule(dropped, rule):
    kept = Instance("x", "y")
    assert clean_instances([dropped, kept, kept], 5) == ([kept], [(dropped, rule), (kept, "repeated")])


def test_clean_instances_contradiction_drops_all():
    found = [Instance("a", "b"), Instance("c", ""), Instance("a", "e")]
    kept, dropped = clean_instances(found, 5)
    assert kept == []
    assert dropped == list(zip(found, ["contradicted", "empty", "contradicted"], strict=True))


def test_clean_instances_without_input_keeps_all():
    found = [Instance("", "Tea."), Instance("", "Milk.")]
    assert clean_instances(found, 5) == (found, [])


def test_clean_instances_keeps_limit_without_the_cut_off():
    text = "\n".join(f"Input: {n}\nOutput: o{n}" for n in range(9))
    _, rows = drive(flow(), NO, say(text))
    assert [row["input"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [one["rule"] for one in rows[0]["dropped_instances"]] == ["surplus"] * 4
    with pytest.raises(RowError, match=r"instance.*cut_off"):
        drive(flow(), NO, say("Output: The Nile, the Con", "length"))
    _, rows = drive(flow(num_instances=9), NO, say(text, "length"))
    assert len(rows) == 8
    assert rows[0]["dropped_instances"] == [{"input": "8", "response": "o8", "rule": "cut_off"}]


def test_instances_completion_without_instance_fails():
    produced = Dataset.from_dict({"instruction": ["Sort."]}).map(
        SelfInstructInstances(RepeatingLLM(("Output:",))), batched=True, with_indices=True
    )
    entry = produced[0]["generation_metadata"][0]
    assert (entry["error"], entry["raw"]) == ("the completion has no instance that passes the rules: empty", "Output:")
    assert (produced[0]["input"], produced[0]["response"], produced[0]["is_classification"]) == (None, None, None)


def test_instances_number_below_one_is_an_error():
    with pytest.raises(ValueError, match=r"SelfInstructInstances.num_instances .*0"):
        flow(num_instances=0)


READ = {  # completion → its instances, as (input, response)
    "no input": ("Output: The Nile.", [("", "The Nile.")]),
    "prose": ("The Nile.\nThe Congo.", []),
    "prose under a heading": ("Example 1\nThe Nile.", [("", "The Nile.")]),
    "blank": (" \n", []),
    "heading and input on one line": ("Example 1: Input: x\nOutput: y", [("x", "y")]),
    "heading with a title": ("Example 1 - simple\nInput: a\nOutput: b", [("a", "b")]),
    "heading with a colon and a title": ("### Example 1: Easy\nInput: a\nOutput: b", [("a", "b")]),
    "announcement": ("Here are some:\nExample 1:\nInput: a\nOutput: b", [("a", "b")]),
    "announcement without heading": ("Here is one:\nOutput: b", [("", "b")]),
    "no output twice": ("Output: a\nOutput: b", [("", "a"), ("", "b")]),
    "two outputs of one input": ("Example 1\nInput: x\nOutput 1: a\nOutput 2: b", [("x", "a")]),
    "bold names": ("**Input:** a\n**Output:** b\nc", [("a", "b\nc")]),
    "bold headings": (
        "**Example 1:**\n**Input:** a\n**Output:** b\n\n**Example 2:**\n**Output:** c",
        [("a", "b"), ("", "c")],
    ),
    "titles": (
        "### Example 1\n#### Input\na\n#### Output\nb\n### Example 2\n**Input**\nc\n\n**Output**\nd",
        [("a", "b"), ("c", "d")],
    ),
    "titles in an output": ("Input: a\nOutput:\n# Tool\n## Input\nb", [("a", "# Tool\n## Input\nb")]),
    "samples": ("Sample Input: a\nSample Output: b\n\nSample Input: c\nSample Output: d", [("a", "b"), ("c", "d")]),
    "numbered items": ("1. Input: a\n   Output: b\n2. Input: c\n   Output: d", [("a", "b"), ("c", "d")]),
    "bullets": ("- Label: a\n  Input: b\n- Label: c\n  Input: d", [("b", "a"), ("d", "c")]),
    "numbered parts": ("Input 1: a\nOutput 1: b\nInput 2: c\nOutput 2: d", [("a", "b"), ("c", "d")]),
    "two inputs of one output": ("Input 1: a\nInput 2: b\nOutput: c", [("a\nInput 2: b", "c")]),
    "numbered labels": ("Class label 1: a\nText: b\nClass label 2: c\nText: d", [("Text: b", "a"), ("Text: d", "c")]),
    "input under its own name": ("Paragraph: Cats sleep.\nOutput: Dogs.", [("Paragraph: Cats sleep.", "Dogs.")]),
    "own name twice": ("Fact: a\nOutput: b\n\nFact: c\nOutput: d", [("Fact: a", "b"), ("Fact: c", "d")]),
    "own name under headings": (
        "Example 1\nFact: a\nOutput: b\nExample 2\nFact: c\nOutput: d",
        [("Fact: a", "b"), ("Fact: c", "d")],
    ),
    "label, own name": (
        "Class label: Good\nReview: x y\nz\nClass label: Bad\nReview: q",
        [("Review: x y\nz", "Good"), ("Review: q", "Bad")],
    ),
    "label, input": ("Class label: Good\nInput: x y\nz", [("x y\nz", "Good")]),
    "label on its own line": ("Label:\nGood\nInput: x", [("x", "Good")]),
    "label and input on one line": (
        "Label: Good, Input: Great.\nLabel: Bad, Input: Dull.",
        [("Great.", "Good"), ("Dull.", "Bad")],
    ),
    "label alone": ("Label: Good", [("", "Good")]),
    "label after its input": ("Input: x\nLabel: Good\nInput: y\nLabel: Bad", [("x", "Good"), ("y", "Bad")]),
    "output before its input": ("Output: Good\nInput: x\nOutput: Bad\nInput: y", [("x", "Good"), ("y", "Bad")]),
    "parts on one line": ("Input: 2 + 2 Output: 4", [("2 + 2", "4")]),
    "a part's name inside": ("Input: the output: of it\nOutput: b", [("the output: of it", "b")]),
    "an example inside": ("Output: Use it.\nExample: like so", [("", "Use it.\nExample: like so")]),
    "code": (
        "Input: f\nOutput:\n```python\ndef f():\n    return 1\n```",
        [("f", "```python\ndef f():\n    return 1\n```")],
    ),
    "an answer": ("Question: a?\nAnswer: b", [("Question: a?", "b")]),
    "no input, in words": ("Input: None\nOutput: a\nInput: <noinput>\nOutput: b", [("", "a"), ("", "b")]),
    "input without output": ("Input: a", [("a", "")]),
    "fenced": ("```\nInput: a\nOutput: b\n```", [("a", "b")]),
    "Korean": ("예시 1\n입력: 하나\n출력: 1", [("하나", "1")]),
    "Chinese": ("示例1：\n输入：一\n输出：1\n示例2：\n输入：二\n输出：2", [("一", "1"), ("二", "2")]),
    "Spanish": ("Ejemplo 1:\nEntrada: uno\nSalida: 1", [("uno", "1")]),
    "marks in code": (
        "Input: a list\nOutput:\n```python\n# Input: list\nprint(x)\n# Output: 1\n```\nInput: b\nOutput: c",
        [("a list", "```python\n# Input: list\nprint(x)\n# Output: 1\n```"), ("b", "c")],
    ),
    "code after its name": (
        "Input: ```python\n# Output: 1\n```\nOutput: ```\n# Label: x\n```",
        [("```python\n# Output: 1\n```", "```\n# Label: x\n```")],
    ),
    "marks in code that is cut off": ("Input: a\nOutput:\n```\n# Output: 1", [("a", "```\n# Output: 1")]),
    "announced in a fence": ("Here you go:\n\n```\nInput: a\nOutput: b\n```\nEnjoy!", [("a", "b")]),
    "examples in fences": (
        "Example 1\n```\nInput: a\nOutput: b\n```\n\nExample 2\n```\nInput: c\nOutput: d\n```",
        [("a", "b"), ("c", "d")],
    ),
    "rules between examples": (
        "Example 1\nInput: a\nOutput: b\n\n---\n\nExample 2\nOutput: c\n***",
        [("a", "b"), ("", "c")],
    ),
    "rules without headings": ("Input: a\nOutput: b\n---\nInput: c\nOutput: d\n---", [("a", "b"), ("c", "d")]),
    "closed": ("Input: a\nOutput: b\n\nI hope this helps!\n\nLet me know if you need more.", [("a", "b")]),
    "closed after a rule": ("Output: b\n\nc\n\n---\n\nI hope this helps!", [("", "b\n\nc")]),
    "closed after code": ("Output:\n```\nb\n\nc\n```\n\nI hope this helps!", [("", "```\nb\n\nc\n```")]),
    "a letter": (
        "Output: Dear Sam,\n\nCome at nine.\n\nLet me know if you need a map.",
        [("", "Dear Sam,\n\nCome at nine.\n\nLet me know if you need a map.")],
    ),
    "arrows": ("Input: 1 + 1 -> Output: 2\nInput: 2 + 2 -> Output: 4", [("1 + 1", "2"), ("2 + 2", "4")]),
    "Turkish": ("Örnek 1\nGirdi: 2 + 2\nÇıktı: 4", [("2 + 2", "4")]),
    "Vietnamese": ("Ví dụ 1:\nĐầu vào: 2 + 2\nĐầu ra: 4", [("2 + 2", "4")]),
    "Thai": ("ตัวอย่างที่ 1\nอินพุต: 2 + 2\nเอาต์พุต: 4", [("2 + 2", "4")]),
    "Turkish labels": ("Etiket: a\nGirdi: b\nEtiket: c\nGirdi: d", [("b", "a"), ("d", "c")]),
    "Vietnamese labels": ("Nhãn: a\nĐầu vào: b\nNhãn: c\nĐầu vào: d", [("b", "a"), ("d", "c")]),
    "Thai labels": ("ป้ายกำกับ: a\nอินพุต: b\nป้ายกำกับ: c\nอินพุต: d", [("b", "a"), ("d", "c")]),
    "announced JSON": ('Here are the examples:\n```json\n[{"input": "a", "output": "b"}]\n```\nEnjoy!', [("a", "b")]),
    "JSON in an object": ('{"examples": [{"input": "a", "output": "b"}]}', [("a", "b")]),
    "JSON with a comma too many": ('[{"input": "a", "output": "b"}, {"output": "c",},]', [("a", "b"), ("", "c")]),
    "JSON that is cut off": ('[{"input": "a", "output": "b"}, {"input": "c", "out', [("a", "b")]),
    "JSON lines": ('{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}', [("a", "b"), ("c", "d")]),
    "JSON of other types": (
        '[{"input": {"a": ["ß", true]}, "output": ["x"]}, {"input": null, "output": 4}]',
        [('{"a": ["ß", true]}', '["x"]'), ("", "4")],
    ),
    "JSON with other names": (
        '[{"id": 1, "premise": "a", "claim": "b", "label": "no"}]',
        [("premise: a\nclaim: b", "no")],
    ),
    "JSON as a response": ('Output:\n{"answer": 4}', [("", '{"answer": 4}')]),
    "XML": (
        "<examples>\n<example>\n<output>4</output>\n</example>\n<example>\n<input><b>x</b></input>\n"
        "<output>2</output>\n</example>\n</examples>",
        [("", "4"), ("<b>x</b>", "2")],
    ),
    "XML without examples": (
        "<input>a</input>\n<output>b</output>\n\n<input>c</input>\n<output>d</output>",
        [("a", "b"), ("c", "d")],
    ),
    "table": (
        "Here are two:\n\n| # | Input | Output |\n|---|---|---|\n| 1 | a | b |\n| 2 | | d |",
        [("a", "b"), ("", "d")],
    ),
    "JSON": ('```json\n[{"input": "a", "output": "b"}, {"label": "d"}]\n```', [("a", "b"), ("", "d")]),
}


@pytest.mark.parametrize(("text", "found"), READ.values(), ids=READ)
def test_parse_instances_reads_forms_of_real_models(text, found):
    assert [(one.input, one.response) for one in parse_instances(text)] == found
