"""Single texts as chat models write them, each beside the text without its wrapping."""

import time

import pytest

from hfsynth.parsing.markup import unwrap
from tests.helpers import LONG_TEXTS

HASH = "Explain what a hash table is in exactly 50 words."
WRAPPED = {
    "bare": "{}",
    "announced": "Sure, here's a rewritten version of the prompt:\n\n{}",
    "announced by its name": "Here is the rewritten prompt:\n\n{}",
    "announced on its line": "Here is the rewritten prompt: {}",
    "announced twice": "Certainly!\n\nHere's a more challenging version:\n\n{}",
    "announced, curly apostrophe": "Sure! Here’s the new prompt:\n{}",
    "announced in bold": "**Here is the rewritten prompt:**\n\n{}",
    "exclaimed": "Sure! {}",
    "announced and quoted": 'Certainly! Here\'s a more complex version of your question:\n\n"{}"',
    "closed with a note": "{}\n\n(Note: I added a limit on the number of words.)",
    "closed with a bold note": "{}\n\n**Note:** This version adds a constraint.",
    "closed with what was added": "{}\n\nI added a constraint on the length to make it harder.",
    "closed with a farewell": "{}\n\nLet me know if you'd like another version!",
    "closed with two paragraphs": "{}\n\nThis rewritten prompt adds a limit.\n\nI hope this helps!",
    "closed after a rule": "{}\n\n---\n\nI've added a word limit.",
    "closed at once": "{}\n(Note: I added a limit.)",
    "closed with changes": "{}\n\n**Changes made:**\n- a limit on words\n- an exact number",
    "closed with an explanation": "{}\n\nExplanation: I added a word limit to the prompt.",
    "double quotes": '"{}"',
    "curly quotes": "“{}”",
    "single quotes": "'{}'",
    "guillemets": "«{}»",
    "German quotes": "„{}“",
    "Japanese quotes": "「{}」",
    "bold": "**{}**",
    "italics": "*{}*",
    "a fence": "```\n{}\n```",
    "a fence with a language": "```text\n{}\n```",
    "announced in a fence": "Here's the rewritten prompt:\n\n```\n{}\n```\n\nThis version is harder.",
    "a quotation": "> {}",
    "the prompt's heading": "#Rewritten Prompt#:\n{}",
    "the prompt's heading on its line": "#Rewritten Prompt#: {}",
    "the heading of breadth": "#Created Prompt#:\n{}",
    "both headings": "#Given Prompt#:\nExplain what a hash table is.\n\n#Rewritten Prompt#:\n{}",
    "both headings in bold": "**Given Prompt:** Explain what a hash table is.\n\n**Rewritten Prompt:** {}",
    "a heading": "## Rewritten Prompt\n\n{}",
    "a bold heading": "**Rewritten Prompt:**\n\n{}",
    "a bold heading on its line": "**Created Prompt:** {}",
    "a label": "Prompt: {}",
    "a label, question": "Question: {}",
    "a number": "1. {}",
    "a number and a label": "1. **Query:** {}",
    "JSON": '{{"rewritten_prompt": "{}"}}',
    "JSON in a fence": '```json\n{{"prompt": "{}"}}\n```',
    "tags": "<rewritten_prompt>\n{}\n</rewritten_prompt>",
    "announced tags": "Sure!\n<prompt>{}</prompt>",
    "a heading in Korean": "#재작성된 프롬프트#:\n{}",
    "Korean": "다음은 다시 작성된 프롬프트입니다:\n\n{}",
    "Korean, closed": "{}\n\n이 질문은 더 많은 추론을 요구합니다.",
    "Chinese": "好的，以下是改写后的提示：\n\n{}",
    "Chinese, heading and note": "改写后的提示：{}\n\n注：我添加了字数限制。",
    "Japanese": "はい、以下は書き換えたプロンプトです：\n\n{}",
    "Spanish": "¡Claro! Aquí tienes la versión reescrita:\n\n{}\n\nEspero que te sirva.",
    "French": "Bien sûr ! Voici la nouvelle question :\n\n{}",
    "German": "Gerne! Hier ist die umgeschriebene Aufgabe:\n\n{}\n\nIch hoffe, das hilft.",
    "Russian": "Конечно! Вот новая версия запроса:\n\n{}",
    "Arabic": "بالتأكيد! إليك النسخة الجديدة من السؤال:\n\n{}",
    "presented": "The rewritten prompt is:\n\n{}",
    "presented on its line": 'The new prompt could be: "{}"',
    "presented by what it is": "A more challenging version of the prompt would be:\n\n{}",
    "presented by the model": "I have rewritten the prompt as follows:\n\n{}",
    "offered": "I'd be happy to help! Here's the rewritten prompt:\n\n{}",
    "closed with what it does": "{}\n\nThis makes the prompt more challenging by adding a word limit.",
    "closed with why": "{}\n\n**Why this is harder:** it limits the words.",
    "closed with a count": "{}\n\n(48 words)",
    "closed with an offer": "{}\n\nWould you like me to make it harder?",
    "closed with the prompt": "{}\n\n#Given Prompt#:\nExplain what a hash table is.",
    "answered": "Question: {}\n\nAnswer: It maps keys to values.",
    "three quotes": '"""\n{}\n"""',
    "a bullet": "- {}",
    "Japanese, closed": "「{}」\n\nこの質問は、条件を追加しました。",
    "Spanish label": "Pregunta reescrita: {}",
    "German label": "Umformulierte Frage: {}",
    "Russian label": "Переписанный запрос:\n{}",
    "both headings in Korean": "#주어진 프롬프트#:\n해시를 설명하세요.\n\n#재작성된 프롬프트#:\n{}",
    "Portuguese": "Claro! Aqui está a nova versão da pergunta:\n\n{}",
}


@pytest.mark.parametrize("form", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("text", [HASH, "What is a hash table, and why is it fast?"], ids=["command", "question"])
def test_unwrap_wrapped_text_comes_alone(form, text):
    assert unwrap(form.format(text)) == text


EXPLAIN_X = [
    "Sure! Here's a harder version:\n\n```\nExplain X.\n```",
    "Here's the rewritten prompt:\n\n---\n\nExplain X.\n\n---",
    "Here's the rewritten prompt:\n\n---\nExplain X.\n---\n\nI added a limit.",
    "**Rewritten Prompt**\n\nExplain X.",
    "### Rewritten Prompt ###\nExplain X.",
    "<rewritten_prompt>Explain X.</rewritten_prompt>\n\nI added a limit.",
    '"Explain X." \n\nThis version is more specific.',
    "Explain X.\n\n*This prompt adds a constraint.*",
    "Explain X.\n\n> Note: I have added a constraint.",
    "Explain X.\n\nNote: I've added a constraint to the original prompt.",
    "Explain X.\nNote: I've added a constraint to the original prompt.",
    "Explain X. (Note: I've added a constraint to the original prompt.)",
    "“Explain X.”\n\n(Added: limit)",
    'Prompt: "Explain X."',
    'Rewritten Prompt: "Explain X."\n\nExplanation: This prompt adds a limit.',
    "New Prompt:\nExplain X.\n\nReasoning: I added a limit.",
    "Evolved prompt: Explain X.",
    "Updated Question: Explain X.",
    "Revised version: Explain X.",
    "Revised: Explain X.",
    "Harder version: Explain X.",
    "Certainly, here's a more complex version: Explain X.",
    "Great! Explain X.",
    "재작성된 질문: Explain X.",
    '다음은 재작성된 프롬프트입니다: "Explain X."',
    "네, 알겠습니다. 다음은 수정된 프롬프트입니다.\n\nExplain X.",
    "Explain X.\n\n도움이 필요하시면 언제든지 말씀해 주세요!",
    "Explain X.\n\n추가된 제약 조건: 단어 수 제한",
    "新的提示：Explain X.",
    "重写后的提示：\n“Explain X.”",
    "当然！以下是改写后的问题：\n\nExplain X.\n\n希望这对您有帮助！",
    "改写：Explain X.",
    "書き換え後のプロンプト：Explain X.",
    "もちろんです！以下は書き換えたプロンプトです。\n\nExplain X.",
    "Aquí está la versión reescrita: Explain X.",
    "Prompt reescrito: Explain X.",
    "**Prompt reescrito:**\nExplain X.",
    "Voici la version réécrite :\n\n« Explain X. »",
    "Hier ist die überarbeitete Version:\n\n„Explain X.“",
    "Вот переписанный запрос:\n«Explain X.»",
    "إليك السؤال بعد إعادة صياغته:\n\nExplain X.",
    "書き換えたプロンプトは以下の通りです：\n\n「Explain X.」",
    "改写后的提示如下：\n\nExplain X.",
    "إليك المطالبة المعاد كتابتها:\n\nExplain X.",
    "यहाँ पुनर्लिखित प्रॉम्प्ट है:\n\nExplain X.",
    "Đây là câu lệnh được viết lại:\n\nExplain X.",
    "Dưới đây là phiên bản mới của câu hỏi:\n\nExplain X.",
    "İşte yeniden yazılmış istem:\n\nExplain X.",
    "Yeniden yazılmış istem: Explain X.",
    "นี่คือพรอมต์ที่เขียนใหม่:\n\nExplain X.",
    "พรอมต์ที่เขียนใหม่:\nExplain X.",
    "How about this:\n\nExplain X.",
    'How about this one?\n\n"Explain X."',
    'Try this: "Explain X."',
    "### Rewritten Prompt\n\nExplain X.\n\n### Explanation\n\nI added a limit.",
    "Explain X.\n\n**Changes made**\n\nI added a limit.",
    "Explain X.\n\n#Answer#:\nX is a letter.",
    "<think>\nA limit?\n</think>\n\nExplain X.",
    "Explain X.\n\nFeel free to modify it!",
    "#Created Prompt#\n\nExplain X.",
    "#Created Prompt#: Explain X.\n#",
    "Explain X.\n\n#Rewritten Prompt#:",
    "The given prompt is: Y.\n\nThe rewritten prompt is: Explain X.",
    "Original: Y.\nRewritten: Explain X.",
    "Original prompt: Y.\n\nRewritten prompt: Explain X.",
    "Given prompt: Y.\n\nNew prompt: Explain X.",
    "Rewritten prompt (added constraint): Explain X.",
    "**Rewritten Prompt (with one more constraint):**\n\nExplain X.",
    'I would rewrite it as: "Explain X."',
    "A harder version: Explain X.",
    "Okay, here's a rewritten prompt that is harder for AI assistants:\n\nExplain X.",
]


@pytest.mark.parametrize("text", EXPLAIN_X)
def test_unwrap_one_sentence_comes_alone(text):
    assert unwrap(text) == "Explain X."


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('Sure, here is the rewritten prompt:\n\n"Explain X.\n\nUse code."', "Explain X.\n\nUse code."),
        (
            "Here's an instruction with input data:\n\nSum the table.\n\n| a | b |\n|---|---|\n| 1 | 2 |",
            "Sum the table.\n\n| a | b |\n|---|---|\n| 1 | 2 |",
        ),
        ("Here is the prompt:\n\nFix the code:\n```python\nx = 1\n```", "Fix the code:\n```python\nx = 1\n```"),
        (
            "Sure! Here's the rewritten prompt:\n\n1. Boil water.\n2. Pour.\n\nWhich comes first?",
            "1. Boil water.\n2. Pour.\n\nWhich comes first?",
        ),
    ],
)
def test_unwrap_several_lines_come_as_written(text, content):
    assert unwrap(text) == content


UNWRAPPED = {
    "quoted words at both ends": '"Tea" or "coffee"',
    "bold words at both ends": "**Tea** or **coffee**",
    "a colon": "Translate this into French:\nGood day.",
    "code": "Explain this code:\n\n```python\ndef f():\n    return 1\n```",
    "code alone": "```python\ndef f():\n    return 1\n```",
    "code at both ends": "```\na\n```\nWhat differs?\n```\nb\n```",
    "numbers": "1. Boil water.\n2. Add leaves.\n\nIn which order is this done?",
    "a list after it": "Sort these by size:\n\n1. cup\n2. pot",
    "a table": "Sum the column:\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "data announced": "Here is a paragraph: tea is a drink. Sum it up.",
    "data announced on its line": "Here is my list:\n- tea\n- milk\n\nSort it.",
    "a user's note": "Plan a trip to Rome.\n\nNote: Do not use planes.",
    "a user's note in brackets": "Plan a trip to Rome. (Note: no planes.)",
    "a user's note that": "Plan a trip.\n\nNote that the budget is 100 euros.",
    "a constraint": "Write a poem.\n\nThe poem should have four lines.",
    "a year": "2024 was warm. Why?",
    "a decimal": "3.5 million people live here. Why?",
    "a number of things": "3 reasons to drink tea, please.",
    "a label's word": "Question 5 of the exam is hard. Why?",
    "a label's verb": "Query three databases and compare the results.",
    "bold in the sentence": "Query **users** and count them.",
    "a heading of its own": "# Recipe\nFlour, water.\n\nHow long does it bake?",
    "JSON": 'Fix this JSON:\n{"prompt": "a",}',
    "JSON with data": '{"name": "tea", "price": 3}',
    "sure as a word": "Sure enough, it rained. Why?",
    "certainly as a word": "Certainly not every tea is green. Why?",
    "a Japanese request": "以下の文章を要約してください：\n\nお茶は飲み物です。",
    "a Chinese request": "请总结以下问题：\n\n茶是什么？",
    "a Korean request": "다음 질문에 답하세요:\n차란 무엇인가요?",
    "a question about a prompt": "What makes a prompt good? Give two examples.",
    "a hashtag": "#tea is a tag. What does it mean?",
    "tags": "<b>Tea</b> or <b>milk</b>",
    "HTML": "<p>What does this tag do?</p>",
    "a text about a prompt": 'Here is the text of a prompt: "Hi". Improve it.',
    "a question about a question": "This is a question about tea: is it healthy?",
    "a list announced": "The following is a list of teas:\n\n- green\n- black\n\nSort it.",
    "a constraint on a prompt": "Write a prompt for a singer.\n\nThe prompt should have 10 words.",
    "a user's offer": "Write a letter.\n\nLet me know if you need details.",
    "a user's hope": "Write an email.\n\nI hope to hear from you by Monday.",
    "a user's thanks": "Write code.\n\nThank you!",
    "a user's condition": "Plan my day.\n\nIf you have any questions, ask me first.",
    "data under its heading": "Sort the data.\n\n#Given Input#:\n3, 1, 2",
    "a form": "Context: tea is good.\n\nQuestion: Is tea good?",
    "a dialog": "A: Hi!\nB: Hello!\nContinue this dialog.",
    "a user's leave": "Write a story about tea.\n\nFeel free to use magic.",
    "a user's leave to ask": "Plan a trip.\n\nFeel free to ask me questions.",
    "a suggestion": "Try this: boil an egg. What happens?",
    "a question how": "How about tea: is it good?",
    "a section named for notes": "Write a report.\n\n### Explanation\n\nDefine tea.",
    "a section for an answer": "Judge it.\n\n## Question\n\n1 + 1?\n\n## Answer\n\n3",
    "a blank line": "Explain tea.\n\nThen explain coffee.",
    "nothing": "",
}


@pytest.mark.parametrize("text", UNWRAPPED.values(), ids=UNWRAPPED)
def test_unwrap_text_without_wrapper_stays(text):
    assert unwrap(text) == text


@pytest.mark.parametrize("text", UNWRAPPED.values(), ids=UNWRAPPED)
def test_unwrap_wrapped_content_stays(text):
    assert unwrap(f"Here is the rewritten prompt:\n\n{text}\n\nI added a limit to the prompt.") == text or not text


def test_unwrap_heading_of_data_stays():
    text = "#Rewritten Prompt#:\nSort the data.\n\n#Given Input#:\n3, 1, 2"
    assert unwrap(text) == "Sort the data.\n\n#Given Input#:\n3, 1, 2"


def test_unwrap_announcement_alone_is_empty():
    assert unwrap("Here is the rewritten prompt:") == ""


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_unwrap_long_text_returns_soon(text):
    """Each took minutes with an expression that tries every place twice, or exceeded the depth of recursion."""
    start = time.process_time()
    unwrap(text)
    assert time.process_time() - start < 10
