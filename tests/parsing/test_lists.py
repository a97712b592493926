"""Completions as chat models write them, each beside what a reader of it would take down."""

import re
import time

import pytest

from hfsynth.parsing.lists import parse_list, parse_records
from tests.helpers import LONG_TEXTS

TEA = ["What is tea?", "Who drinks it?"]
KO = ["발효란 무엇인가요?", "반죽을 얼마나 두어야 하나요?"]
ZH = ["什么是发酵？", "面团要放多久？"]
JA = ["発酵とは何ですか？", "生地はどのくらい置きますか？"]
ES = ["¿Qué es la fermentación?", "¿Cuánto dura?"]
AR = ["ما هو التخمير؟", "كم يستغرق؟"]
RU = ["Что такое брожение?", "Сколько стоит тесто?"]
DE = ["Was ist Gärung?", "Wie lange dauert sie?"]
FR = ["Qu'est-ce que la fermentation ?", "Combien de temps dure-t-elle ?"]

NUMBERED = {
    "numbers": ("1. {}\n2. {}", TEA),
    "announced, blank lines": ("Here are 2 queries:\n\n1) {}\n\n2) {}", TEA),
    "announced without a colon": ("Sure! Here you go.\n1. {}\n2. {}", TEA),
    "in brackets": ("(1) {}\n(2) {}", TEA),
    "in square brackets": ("[1] {}\n[2] {}", TEA),
    "bold numbers": ("**1.** {}\n**2.** {}", TEA),
    "all bold": ("**1. {}**\n**2. {}**", TEA),
    "bold items": ("1. **{}**\n2. **{}**", TEA),
    "escaped dots": ("1\\. {}\n2\\. {}", TEA),
    "number and dash": ("1 - {}\n2 - {}", TEA),
    "number and bar": ("1 | {}\n2 | {}", TEA),
    "section numbers": ("1.1 {}\n1.2 {}", TEA),
    "bold section numbers": ("**1.1** {}\n**1.2.** {}", TEA),
    "number and colon": ("1: {}\n2: {}", TEA),
    "number signs": ("#1 {}\n#2 {}", TEA),
    "number signs and colons": ("#1: {}\n#2: {}", TEA),
    "every number is one": ("1. {}\n1. {}", TEA),
    "no space": ("1.{}\n2.{}", TEA),
    "right-aligned": (" 9. {}\n10. {}", TEA),
    "headings with numbers": ("## 1. {}\n\n## 2. {}", TEA),
    "headings with labels": ("### Question 1\n{}\n\n### Question 2\n{}", TEA),
    "headings with labels and colons": ("### Query 1: {}\n### Query 2: {}", TEA),
    "labels": ("Query 1: {}\nQuery 2: {}", TEA),
    "bold labels, colon inside": ("**Query 1:** {}\n**Query 2:** {}", TEA),
    "bold labels, colon outside": ("**Query 1**: {}\n\n**Query 2**: {}", TEA),
    "labels on lines of their own": ("**Question 1:**\n{}\n\n**Question 2:**\n{}", TEA),
    "numbers and labels": ("1. Query: {}\n2. Query: {}", TEA),
    "numbers and bold labels": ("1. **User query:** {}\n2. **User query:** {}", TEA),
    "bullets and labels": ("- Query 1: {}\n- Query 2: {}", TEA),
    "numbers in words": ("Question one: {}\nQuestion two: {}", TEA),
    "ordinals": ("First query: {}\nSecond query: {}", TEA),
    "labels without numbers": ("Question: {}\n\nQuestion: {}", TEA),
    "Q": ("Q1: {}\nQ2: {}", TEA),
    "Q with a dot": ("Q1. {}\nQ2. {}", TEA),
    "letters": ("a) {}\nb) {}", TEA),
    "capital letters": ("A. {}\nB. {}", TEA),
    "Roman numerals": ("I. {}\nII. {}", TEA),
    "quoted": ('1. "{}"\n2. "{}"', TEA),
    "curly quotes": ("1. “{}”\n2. “{}”", TEA),
    "backticks": ("1. `{}`\n2. `{}`", TEA),
    "bullets": ("- {}\n- {}", TEA),
    "asterisks": ("* {}\n* {}", TEA),
    "round bullets": ("• {}\n• {}", TEA),
    "boxes": ("- [ ] {}\n- [ ] {}", TEA),
    "keycaps": ("1️⃣ {}\n2️⃣ {}", TEA),
    "circled": ("① {}\n② {}", TEA),
    "in a fence": ("```\n1. {}\n2. {}\n```", TEA),
    "announced, in a fence": ("Here are the queries:\n\n```text\n1. {}\n2. {}\n```\n\nLet me know!", TEA),
    "in a fence without an end": ("```markdown\n1. {}\n2. {}", TEA),
    "quotation": ("> 1. {}\n> 2. {}", TEA),
    "closed with a question": ("1. {}\n2. {}\n\nWould you like more queries?", TEA),
    "closed at once": ("1. {}\n2. {}\nLet me know if you need more!", TEA),
    "closed with a note": ("1. {}\n2. {}\n\n(Note: these queries cover the whole context.)", TEA),
    "closed after a rule": ("1. {}\n2. {}\n\n---\n\nI hope this helps!", TEA),
    "closed with what they are": ("1. {}\n2. {}\n\nThese queries vary in length and verb.", TEA),
    "parts with headings": ("### Beginner\n1. {}\n\n### Advanced\n2. {}", TEA),
    "parts in bold": ("**Beginner**\n\n1. {}\n\n**Advanced**\n\n1. {}", TEA),
    "parts with colons": ("Questions:\n1. {}\n\nCommands:\n2. {}", TEA),
    "carriage returns": ("1. {}\r\n2. {}\r\n", TEA),
    "criteria before it": ("The queries must:\n- vary\n- be short\n\n1. {}\n2. {}", TEA),
    "Korean labels": ("다음은 두 가지 질문입니다:\n\n질문 1: {}\n질문 2: {}", KO),
    "Korean bold labels": ("**질문 1:** {}\n**질문 2:** {}", KO),
    "Korean numbers": ("1번. {}\n2번. {}", KO),
    "Korean numbers and labels": ("1번 질문: {}\n2번 질문: {}", KO),
    "Korean syllables": ("가. {}\n나. {}", KO),
    "Korean syllables in brackets": ("가) {}\n나) {}", KO),
    "Korean ordinals": ("첫 번째 질문: {}\n두 번째 질문: {}", KO),
    "Korean, closed": ("네, 질문을 작성해 드리겠습니다.\n1. {}\n2. {}\n\n이 질문들은 본문을 다룹니다.", KO),
    "Chinese numerals": ("以下是两个问题：\n\n一、{}\n二、{}", ZH),
    "Chinese numerals in brackets": ("（一）{}\n（二）{}", ZH),
    "Chinese labels": ("问题1：{}\n问题2：{}", ZH),
    "Chinese labels with numerals": ("问题一：{}\n问题二：{}", ZH),
    "Chinese bold labels": ("**问题1：** {}\n**问题2：** {}", ZH),
    "Chinese ordinals": ("第一，{}\n第二，{}", ZH),
    "Chinese ordinals with labels": ("第1个问题：{}\n第2个问题：{}", ZH),
    "Chinese, closed": ("好的，以下是问题：\n1. {}\n2. {}\n\n希望这些问题对您有帮助！", ZH),
    "Japanese labels": ("質問1：{}\n質問2：{}", JA),
    "Japanese labels in brackets": ("【質問1】{}\n【質問2】{}", JA),
    "Japanese labels, wide space": ("問1　{}\n問2　{}", JA),
    "Japanese bullets": ("・{}\n・{}", JA),
    "Japanese, closed": ("以下に質問を示します：\n\n1. {}\n2. {}\n\n以上の質問がお役に立てば幸いです。", JA),
    "full-width digits": ("１．{}\n２．{}", JA),
    "Spanish labels": ("Claro, aquí tienes:\n\nPregunta 1: {}\nPregunta 2: {}", ES),
    "Spanish numbers": ("1.- {}\n2.- {}\n\nEspero que te sirvan.", ES),
    "Arabic digits": ("١. {}\n٢. {}", AR),
    "Arabic digits and dashes": ("١- {}\n٢- {}", AR),
    "Arabic labels": ("إليك الأسئلة:\nالسؤال 1: {}\nالسؤال 2: {}", AR),
    "Arabic ordinals": ("السؤال الأول: {}\nالسؤال الثاني: {}", AR),
    "Russian labels": ("Вопрос 1: {}\nВопрос 2: {}", RU),
    "Russian letters": ("а) {}\nб) {}", RU),
    "German labels": ("Hier sind die Fragen:\n\nFrage 1: {}\nFrage 2: {}", DE),
    "German labels of two words": ("Nutzerfrage Nr. 1: {}\nNutzerfrage Nr. 2: {}", DE),
    "French labels": ("Question n° 1 : {}\nQuestion n° 2 : {}", FR),
    "Hindi digits": ("१. {}\n२. {}", ["चाय क्या है?", "इसे कौन पीता है?"]),
    "all on one line": ("1. {} 2. {}", TEA),
    "announced and all on one line": ("Here are 2 questions: 1. {} 2. {}", TEA),
    "labels and levels": ("Question 1 (easy): {}\nQuestion 2 (hard): {}", TEA),
    "underlined labels": ("Prompt 1\n--------\n{}\n\nPrompt 2\n--------\n{}", TEA),
    "labels and quotations": ("**Query 1**\n> {}\n\n**Query 2**\n> {}", TEA),
    "labels, bullets, explanations": (
        'Query 1:\n- "{}"\n- Explanation: It asks for steps.\n\nQuery 2:\n- "{}"\n- Explanation: It asks why.',
        TEA,
    ),
    "numbers, answers": ("1) Q: {}\n   A: A drink.\n2) Q: {}\n   A: All.", TEA),
    "a label after the list": ("1. {}\n\nQuestion: {}", TEA),
    "quotes around numbers": ('"1. {}"\n"2. {}"', TEA),
    "bullets, labels, answers": (
        "1. - Example 1:\n\nQuestion: {}\n\nAnswer: A.\n\n2. - Example 2:\n\nQuestion: {}",
        TEA,
    ),
    "open quotes": ('1. "{}\n2. "{}', TEA),
    "ordinal signs": ("1º {}\n2º {}", ES),
    "degree signs": ("Voici deux questions :\n\n1° {}\n2° {}\n\nN'hésitez pas à en demander d'autres.", FR),
    "Vietnamese labels": ("Câu hỏi 1: {}\nCâu hỏi 2: {}", ["Trà là gì?", "Ai uống trà?"]),
    "Thai digits": ("๑. {}\n๒. {}", ["ชาคืออะไร", "ใครดื่มชา"]),
    "Chinese questions and answers": ("问：{}\n答：发酵。\n问：{}\n答：一夜。", ZH),
    "ordinals alone": ("First: {}\nSecond: {}", TEA),
    "Korean ordinals alone": ("첫째, {}\n둘째, {}", KO),
    "Arabic ordinals alone": ("أولاً: {}\nثانياً: {}", AR),
    "hyphenated labels": ("Query-1: {}\nQuery-2: {}", TEA),
    "records": ("- id: 1\n  query: {}\n- id: 2\n  query: {}", TEA),
    "Persian labels": ("سوال ۱: {}\nسوال ۲: {}", AR),
    "remarks": ("1. {}\n\n   (This tests knowledge.)\n\n2. {}\n\n   *This tests who.*", TEA),
    "unknown labels": ("Cwestiwn 1: {}\nCwestiwn 2: {}", ["Beth yw te?", "Pwy sy'n ei yfed?"]),
}
OTHER_FORMS = {
    "lines": ("{}\n{}", TEA),
    "lines, blank ones between": ("{}\n\n{}\n", TEA),
    "announced lines": ("Sure! Here are two queries for you.\n{}\n{}", TEA),
    "announced lines, colon": ("The queries are:\n\n{}\n{}", TEA),
    "quoted lines": ('"{}"\n"{}"', TEA),
    "closed lines": ("{}\n{}\n\nFeel free to ask for more!", TEA),
    "headings alone": ("## {}\n## {}", TEA),
    "lines under headings": ("## Beginner\n{}\n\n## Advanced\n{}", TEA),
    "Chinese lines": ("以下是两个问题：\n{}\n{}", ZH),
    "Korean lines": ("다음은 질문입니다:\n{}\n{}\n\n도움이 되었으면 좋겠습니다.", KO),
    "German lines": ("Gerne! Hier sind zwei Fragen:\n{}\n{}\n\nIch hoffe, das hilft.", DE),
    "pointed at in Spanish": ("Aquí tienes:\n\n{}\n{}", ES),
    "blocks between rules": ("{}\n---\n{}", ["Write a poem\nabout tea.", "Why?"]),
    "offered lines": ("Sure, I can help you with that!\n\n{}\n{}", TEA),
    "lines for a context": ("Based on the context, here are 2 queries:\n\n{}\n{}", TEA),
    "a block of quotes": ('"{}\n{}"', TEA),
    "lines in an unknown language": ("Dyma ddau gwestiwn:\n{}\n{}", ["Beth yw te?", "Pwy sy'n ei yfed?"]),
    "JSON": ('["{}", "{}"]', TEA),
    "JSON in lines": ('[\n  "{}",\n  "{}"\n]', TEA),
    "JSON in a fence": ('```json\n[\n  "{}",\n  "{}"\n]\n```', TEA),
    "announced JSON": ('Here are the queries:\n\n```json\n["{}", "{}"]\n```\n\nEach query is short.', TEA),
    "JSON with a comma too many": ('[\n  "{}",\n  "{}",\n]', TEA),
    "Python's list": ("['{}', '{}']", TEA),
    "Python's assignment": ('```python\nqueries = [\n    "{}",\n    "{}",\n]\n```', TEA),
    "objects": ('[{{"query": "{}"}}, {{"query": "{}"}}]', TEA),
    "objects with other keys": ('[{{"id": 1, "type": "x", "question": "{}"}}, {{"id": 2, "question": "{}"}}]', TEA),
    "objects, instruction": ('{{"instructions": [{{"instruction": "{}"}}, {{"instruction": "{}"}}]}}', TEA),
    "an object with a list": ('{{"queries": ["{}", "{}"]}}', TEA),
    "an object with numbers": ('{{"1": "{}", "2": "{}"}}', TEA),
    "an object with labels": ('{{"query_1": "{}", "query_2": "{}"}}', TEA),
    "an object with parts": ('{{"beginner": ["{}"], "advanced": ["{}"]}}', TEA),
    "objects on lines": ('{{"query": "{}"}}\n{{"query": "{}"}}', TEA),
    "objects in fences": ('```json\n{{"query": "{}"}}\n```\n\n```json\n{{"query": "{}"}}\n```', TEA),
    "objects with inner quotes": ('[{{"query": "{}"}}, {{"query": "{}"}}]\n\nThe word "tea" is in all.', TEA),
    "numbered objects": ('1. {{"query": "{}"}}\n2. {{"query": "{}"}}', TEA),
    "objects with answers": ('[{{"question": "{}", "answer": "A"}}, {{"question": "{}", "answer": "B"}}]', TEA),
    "Korean objects": ('[{{"질문": "{}"}}, {{"질문": "{}"}}]', KO),
    "lists in a list": ('[["{}"], ["{}"]]', TEA),
    "tags": ("<query>{}</query>\n<query>{}</query>", TEA),
    "tags in tags": ("<queries>\n  <query>{}</query>\n  <query>\n{}\n</query>\n</queries>", TEA),
    "tags with numbers": ("<query1>{}</query1>\n<query2>{}</query2>", TEA),
    "tags with attributes": ('Sure!\n<question id="1">{}</question>\n<question id="2">{}</question>', TEA),
    "numbered tags": ("1. <query>{}</query>\n2. <query>{}</query>", TEA),
    "tags of another language": ("<frage>{}</frage>\n<frage>{}</frage>", DE),
    "HTML": ("<ol>\n<li>{}</li>\n<li>{}</li>\n</ol>", TEA),
    "table": ("| # | Query |\n|---|---|\n| 1 | {} |\n| 2 | {} |", TEA),
    "announced table": ("Here is a table:\n\n| Type | Question |\n|:--|--:|\n| A | {} |\n| B | {} |\n\nEnjoy!", TEA),
    "table without outer bars": ("No. | Query\n--- | ---\n1 | {}\n2 | {}", TEA),
    "table with other names": ("| Nr | Text |\n|---|---|\n| 1 | {} |\n| 2 | {} |", TEA),
    "questions with answers": ("**Question:** {}\n**Answer:** A drink.\n\n**Question:** {}\n**Answer:** All.", TEA),
    "YAML": ("queries:\n  - {}\n  - {}", TEA),
    "YAML with keys": ("- query: {}\n- query: {}", TEA),
}


@pytest.mark.parametrize(("form", "items"), NUMBERED.values(), ids=NUMBERED)
def test_parse_list_marked_items_come_without_marks(form, items):
    assert parse_list(form.format(*items)) == items


@pytest.mark.parametrize(("form", "items"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_parse_list_other_forms_come_without_wrapping(form, items):
    assert parse_list(form.format(*items)) == items


TEA_KO = ["차란 무엇인가요?", "누가 마시나요?"]
COMPLETIONS = [
    (
        (
            "1. Write a Python function `add(a, b)` that returns the sum:\n"
            "\n```python\ndef add(a, b):\n    # 1. TODO\n    pass\n```\n\n"
            "2. Who drinks it?"
        ),
        [
            "Write a Python function `add(a, b)` that returns the sum:\n\n"
            "```python\ndef add(a, b):\n    # 1. TODO\n    pass\n```",
            "Who drinks it?",
        ],
    ),
    ("1. Fix the bug:\n    def f():\n        return 1\n2. Why?", ["Fix the bug:\ndef f():\n    return 1", "Why?"]),
    (
        ("1. What does this print? `for i in range(3): print(i)`\n2. Why?"),
        ["What does this print? `for i in range(3): print(i)`", "Why?"],
    ),
    (
        (
            "Sure! Here are some queries:\n\n**Basic**\n1. What is tea?\n\n"
            "**Advanced**\n2. Who drinks it?\n\n"
            "**Note**: the last query is harder."
        ),
        TEA,
    ),
    (
        (
            "Below are two queries users might send.\n\n1. What is tea?\n"
            "2. Who drinks it?\n\n---\n"
            "These queries were designed to be diverse."
        ),
        TEA,
    ),
    (("# Queries\n\n## Query 1\n\nWhat is tea?\n\n## Query 2\n\nWho drinks it?"), TEA),
    ("# User Queries\n\n1. What is tea?\n2. Who drinks it?", TEA),
    ("질문 목록:\n1) 차란 무엇인가요?\n2) 누가 마시나요?\n\n(참고: 모든 질문은 본문에 근거합니다.)", TEA_KO),
    ("### 질문 1\n차란 무엇인가요?\n\n### 질문 2\n누가 마시나요?", TEA_KO),
    ("**1번 질문**: 차란 무엇인가요?\n**2번 질문**: 누가 마시나요?", TEA_KO),
    ("[질문 1] 차란 무엇인가요?\n[질문 2] 누가 마시나요?", TEA_KO),
    ("- 질문 1: 차란 무엇인가요?\n- 질문 2: 누가 마시나요?", TEA_KO),
    ("Q1. 차란 무엇인가요?\nQ2. 누가 마시나요?", TEA_KO),
    ("① 차란 무엇인가요?\n② 누가 마시나요?", TEA_KO),
    ("1. 차란 무엇인가요?\n2. 누가 마시나요?\n\n더 필요하시면 말씀해 주세요!", TEA_KO),
    ("1.차란 무엇인가요?\n2.누가 마시나요?", TEA_KO),
    ("요청하신 질문은 다음과 같습니다:\n\n차란 무엇인가요?\n누가 마시나요?", TEA_KO),
    ("아래에 질문 두 개를 작성했습니다.\n\n차란 무엇인가요?\n누가 마시나요?", TEA_KO),
    ("질문1. 차란 무엇인가요?\n질문2. 누가 마시나요?", TEA_KO),
    ("질문 #1: 차란 무엇인가요?\n질문 #2: 누가 마시나요?", TEA_KO),
    (
        "以下是用户可能提出的问题：\n\n1. 茶是什么？\n2. 谁喝茶？\n\n这些问题涵盖了文本的要点。",
        ["茶是什么？", "谁喝茶？"],
    ),
    ("问题一\n茶是什么？\n\n问题二\n谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("问题 1：茶是什么？\n问题 2：谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("**问题一：**茶是什么？\n**问题二：**谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("1. **定义**：茶是什么？\n2. **人群**：谁喝茶？", ["**定义**：茶是什么？", "**人群**：谁喝茶？"]),
    ("①茶是什么？\n②谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("一. 茶是什么？\n二. 谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("十一、茶是什么？\n十二、谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("查询1：茶是什么？\n查询2：谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("用户查询1：茶是什么？\n用户查询2：谁喝茶？", ["茶是什么？", "谁喝茶？"]),
    ("以下、質問です。\n\n・お茶とは何ですか？\n・誰が飲みますか？", ["お茶とは何ですか？", "誰が飲みますか？"]),
    ("1つ目の質問：お茶とは何ですか？\n2つ目の質問：誰が飲みますか？", ["お茶とは何ですか？", "誰が飲みますか？"]),
    ("質問１：お茶とは何ですか？\n質問２：誰が飲みますか？", ["お茶とは何ですか？", "誰が飲みますか？"]),
    (
        "（1）お茶とは何ですか？\n（2）誰が飲みますか？\n\n何か他にご質問があればお知らせください。",
        ["お茶とは何ですか？", "誰が飲みますか？"],
    ),
    (
        ("Aquí hay dos preguntas:\n\n1. ¿Qué es?\n2. ¿Quién?\n\nEstas preguntas cubren el texto."),
        ["¿Qué es?", "¿Quién?"],
    ),
    ("Consulta 1: ¿Qué es?\nConsulta 2: ¿Quién?", ["¿Qué es?", "¿Quién?"]),
    ("**Pregunta 1:** ¿Qué es?\n**Pregunta 2:** ¿Quién?", ["¿Qué es?", "¿Quién?"]),
    ("Primera pregunta: ¿Qué es?\nSegunda pregunta: ¿Quién?", ["¿Qué es?", "¿Quién?"]),
    ("أسئلة:\n\n١) ما هو؟\n٢) من هو؟", ["ما هو؟", "من هو؟"]),
    ("سؤال 1: ما هو؟\nسؤال 2: من هو؟", ["ما هو؟", "من هو؟"]),
    ("سؤال ١: ما هو؟\nسؤال ٢: من هو؟", ["ما هو؟", "من هو؟"]),
    ("أ) ما هو؟\nب) من هو؟", ["ما هو؟", "من هو؟"]),
    ("أ. ما هو؟\nب. من هو؟", ["ما هو؟", "من هو؟"]),
    ("فيما يلي سؤالان:\n\nما هو؟\nمن هو؟", ["ما هو؟", "من هو؟"]),
    ("• ما هو؟\n• من هو؟", ["ما هو؟", "من هو؟"]),
    ("Вот два вопроса:\n\nЧто это?\nКто это?\n\nНадеюсь, это поможет!", ["Что это?", "Кто это?"]),
    ("Запрос №1: Что это?\nЗапрос №2: Кто это?", ["Что это?", "Кто это?"]),
    (
        ("Hier sind 2 Anfragen:\n\n• Was ist Tee?\n• Wer trinkt ihn?\n\nSag Bescheid, wenn du mehr brauchst."),
        ["Was ist Tee?", "Wer trinkt ihn?"],
    ),
    ("Anfrage 1: Was ist Tee?\nAnfrage 2: Wer trinkt ihn?", ["Was ist Tee?", "Wer trinkt ihn?"]),
    ("Requête 1 : Qu'est-ce ?\nRequête 2 : Qui ?", ["Qu'est-ce ?", "Qui ?"]),
    ('{"instructions": ["What is tea?", "Who drinks it?"]}', TEA),
    (('```json\n{\n  "queries": [\n    "What is tea?",\n    "Who drinks it?"\n  ]\n}\n```\n\nLet me know!'), TEA),
    (
        (
            '[\n  {\n    "instruction": "What is tea?",\n'
            '    "output": "A drink."\n  },\n  {\n'
            '    "instruction": "Who drinks it?",\n    "output": "All."\n'
            "  }\n]"
        ),
        TEA,
    ),
    ('{"query1": "What is tea?", "query2": "Who drinks it?"}', TEA),
    ('{"Query 1": "What is tea?", "Query 2": "Who drinks it?"}', TEA),
    ('[{"user_query": "What is tea?"}, {"user_query": "Who drinks it?"}]', TEA),
    ('[{"prompt": "What is tea?"}, {"prompt": "Who drinks it?"}]', TEA),
    ('[{"title": "Tea", "query": "What is tea?"}, {"title": "People", "query": "Who drinks it?"}]', TEA),
    (
        '[{"messages": [{"role": "user", "content": "What is tea?"}]}, '
        '{"messages": [{"role": "user", "content": "Who drinks it?"}]}]',
        TEA,
    ),
    ('[{"role": "user", "content": "What is tea?"}, {"role": "user", "content": "Who drinks it?"}]', TEA),
    ('{"data": {"questions": [{"q": "What is tea?"}, {"q": "Who drinks it?"}]}}', TEA),
    ('[{"질문": "차란 무엇인가요?"}, {"질문": "누가 마시나요?"}]', TEA_KO),
    ('[{"pregunta": "What is tea?"}, {"pregunta": "Who drinks it?"}]', TEA),
    ('[{"ask": "What is tea?"}, {"ask": "Who drinks it?"}]', TEA),
    ('["What is \\"tea\\"?", "Who drinks it?"]', ['What is "tea"?', "Who drinks it?"]),
    ('["1. What is tea?", "2. Who drinks it?"]', TEA),
    ('["Query 1: What is tea?", "Query 2: Who drinks it?"]', TEA),
    ("[“What is tea?”, “Who drinks it?”]", TEA),
    ("{“queries”: [“What is tea?”, “Who drinks it?”]}", TEA),
    ('"What is tea?", "Who drinks it?"', TEA),
    ('"queries": ["What is tea?", "Who drinks it?"]', TEA),
    ('queries = ["What is tea?", "Who drinks it?"]', TEA),
    ('[\n"What is tea?"\n"Who drinks it?"\n]', TEA),
    ('Output:\n["What is tea?", "Who drinks it?"]', TEA),
    ("<queries>\n1. What is tea?\n2. Who drinks it?\n</queries>", TEA),
    ("<queries>\nWhat is tea?\nWho drinks it?\n</queries>", TEA),
    (("<query_1>What is tea?</query_1>\n<query_2>Who drinks it?</query_2>"), TEA),
    ("<query>What is tea?\n<query>Who drinks it?", TEA),
    ("<instruction>What is tea?</instruction><instruction>Who drinks it?</instruction>", TEA),
    (("```xml\n<queries>\n<query>What is tea?</query>\n<query>Who drinks it?</query>\n</queries>\n```"), TEA),
    ("<ul>\n<li>What is tea?</li>\n<li>Who drinks it?</li>\n</ul>", TEA),
    ("| 번호 | 질문 |\n|---|---|\n| 1 | 차란 무엇인가요? |\n| 2 | 누가 마시나요? |", TEA_KO),
    (
        (
            "Here is a table of queries:\n\n| Query | Type |\n"
            "|-------|------|\n| What is tea? | question |\n"
            "| Who drinks it? | question |"
        ),
        TEA,
    ),
    ("|Query|\n|-|\n|What is tea?|\n|Who drinks it?|", TEA),
    (
        (
            "Query | Why\n------|-----\n"
            "What is tea? | a long explanation of why this query is good\n"
            "Who drinks it? | a long explanation of why it is good"
        ),
        TEA,
    ),
    ('1. "What is tea?" \n2. "Who drinks it?" ', TEA),
    ('- "What is tea?"\n- "Who drinks it?"', TEA),
    ("1. What is tea?  \n2. Who drinks it?  ", TEA),
    ("Query 1: What is tea?\n\n---\n\nQuery 2: Who drinks it?", TEA),
    (("Query 1:\n```\nWhat is tea?\n```\n\nQuery 2:\n```\nWho drinks it?\n```"), TEA),
    ("1. `What is tea?`\n2. `Who drinks it?`", TEA),
    ("Answer:\n1. What is tea?\n2. Who drinks it?", TEA),
    ("Response:\n\nWhat is tea?\nWho drinks it?", TEA),
    ("Output:\n1. What is tea?\n2. Who drinks it?", TEA),
    ("Assistant: 1. What is tea?\n2. Who drinks it?", TEA),
    ("Queries: \n1. What is tea?\n2. Who drinks it?\nEnd of queries.", TEA),
    ('[\n"What is "tea"?",\n"Who, "all", drinks it?"\n]', ['What is "tea"?', 'Who, "all", drinks it?']),
    ('{"queries": ["What does "umami" mean?", "Who?"], "topic": "tea"}', ['What does "umami" mean?', "Who?"]),
    ("['What's tea?', 'Who drinks \"it\"?']", ["What's tea?", 'Who drinks "it"?']),
    ('[\n  // one\n  "What is tea?",\n  "Who drinks it?" // two\n]', TEA),
    ('[{"类型": "问题", "内容": "茶是什么？"}, {"类型": "问题", "内容": "谁喝茶？"}]', ["茶是什么？", "谁喝茶？"]),
    ('[{"유형": "질문", "내용": "차란 무엇인가요?"}, {"유형": "질문", "내용": "누가 마시나요?"}]', TEA_KO),
    ('{"questions": [{"kind": "x", "body": "What is tea?"}, {"kind": "y", "body": "Who drinks it?"}]}', TEA),
    ('[{"task": "question", "text": "What is tea?"}, {"task": "question", "text": "Who drinks it?"}]', TEA),
    ('[{"kind": "what", "ask": "What is tea?"}, {"kind": "who", "ask": "Who drinks it?"}]', TEA),
    ('{"topic": "tea", "queries": ["What is tea?", "Who drinks it?"], "notes": ["Varied verbs."]}', TEA),
    ("Q1: What is tea?\nA1: A drink.\n\nQ2: Who drinks it?\nA2: All.", TEA),
    ("Question 1: What is tea?\nAnswer 1: A drink.\n\nQuestion 2: Who drinks it?\nAnswer 2: All.", TEA),
    ("1. What is tea?\n   Answer: A drink.\n2. Who drinks it?\n   **Answer:** All.", TEA),
    ("问题1：茶是什么？\n答案：饮料。\n\n问题2：谁喝茶？\n答案：人。", ["茶是什么？", "谁喝茶？"]),
    ("1. (Question) What is tea?\n2. (Asking) Who drinks it?", TEA),
    ("1. [Question] What is tea?\n2. [Command] Who drinks it?", TEA),
    ("1. **[Question]** What is tea?\n2. **[Command]:** Who drinks it?", TEA),
    ("1. Task: What is tea?\n2. Command: Who drinks it?", TEA),
    ("id,query\n1,What is tea?\n2,Who drinks it?", TEA),
    ('```csv\nquery,id\n"What, is tea?",1\n"Who, then?",2\n```', ["What, is tea?", "Who, then?"]),
    ("id;question\n1;What; is tea?\n2;Who?", ["What; is tea?", "Who?"]),
    ("<query><id>1</id><text>What is tea?</text></query>\n<query><id>2</id><text>Who drinks it?</text></query>", TEA),
    ("<think>\nA list:\n1. one\n</think>\n\n1. What is tea?\n2. Who drinks it?", TEA),
    ("<think>tea</think>Output:\n1. What is tea?\n2. Who drinks it?", TEA),
    ("| Query | Answer to the query |\n|---|---|\n| What<br>is tea? | A drink. |", ["What\nis tea?"]),
    ("1. What is tea? *(definition)*\n2. Who drinks it?", ["What is tea? *(definition)*", "Who drinks it?"]),
]


@pytest.mark.parametrize(("text", "items"), COMPLETIONS)
def test_parse_list_completion_comes_to_its_items(text, items):
    assert parse_list(text) == items


CONTENT = {
    "bold titles": ("1. **What**: is tea?\n2. **Who:** drinks it?", ["**What**: is tea?", "**Who:** drinks it?"]),
    "bold words": ("1. **Tea** is nice. Why?\n2. Is **it**?", ["**Tea** is nice. Why?", "Is **it**?"]),
    "bold words at both ends": ("1. **Tea** or **milk**\n2. b", ["**Tea** or **milk**", "b"]),
    "quoted words at both ends": ('1. "Tea" or "milk"\n2. “a” and “b”', ['"Tea" or "milk"', "“a” and “b”"]),
    "nested bullets": ("1. Compare:\n   - tea\n   - milk\n2. Sum up.", ["Compare:\n- tea\n- milk", "Sum up."]),
    "deeper bullets": ("1. Plan:\n   - a\n     - b\n2. Sum up.", ["Plan:\n- a\n  - b", "Sum up."]),
    "nested numbers": ("1. Sort:\n   1. x\n   2. y\n2. Sum up.", ["Sort:\n1. x\n2. y", "Sum up."]),
    "choices": ("1. Which?\n   a) x\n   b) y\n2. Why?", ["Which?\na) x\nb) y", "Why?"]),
    "nested below bullets": ("- Compare:\n  - tea\n  - milk\n- Sum up.", ["Compare:\n- tea\n- milk", "Sum up."]),
    "numbers below bullets": ("- Sort:\n  1. x\n  2. y\n- Sum up.", ["Sort:\n1. x\n2. y", "Sum up."]),
    "blank line": ("1. Rewrite this:\n\n   Tea is nice.\n\n2. Sum up.", ["Rewrite this:\n\nTea is nice.", "Sum up."]),
    "blank line, no indentation": ("1. Rewrite:\n\nTea is.\n\n2. Sum up.", ["Rewrite:\n\nTea is.", "Sum up."]),
    "blank line in the last": ("1. Sum up.\n2. Rewrite:\n\nTea is nice.", ["Sum up.", "Rewrite:\n\nTea is nice."]),
    "blank line in all": ("1. Rhyme.\n\nRoses\n\n2. Read.\n\nViolets", ["Rhyme.\n\nRoses", "Read.\n\nViolets"]),
    "fenced code": (
        "1. Explain this code:\n   ```python\n   def f():\n       # 1. load\n\n       return 1\n   ```\n2. Why?",
        ["Explain this code:\n```python\ndef f():\n    # 1. load\n\n    return 1\n```", "Why?"],
    ),
    "fenced code, no indentation": (
        "1. Explain:\n```python\nif x:\n    y()\n```\n\n2. Fix:\n\n```js\nlet a = {\n  b: 1\n}\n```\n",
        ["Explain:\n```python\nif x:\n    y()\n```", "Fix:\n\n```js\nlet a = {\n  b: 1\n}\n```"],
    ),
    "code without a fence": (
        "1. Explain:\n   for x in y:\n       print(x)\n2. Why?",
        ["Explain:\nfor x in y:\n    print(x)", "Why?"],
    ),
    "code on the first line": ("1. def f():\n       return 1\n2. Why?", ["def f():\n    return 1", "Why?"]),
    "commented code": (
        "1. Fix:\n   # 1. open\n   f = open(x)\n   # 2. read\n   f.read()\n2. Why?",
        ["Fix:\n# 1. open\nf = open(x)\n# 2. read\nf.read()", "Why?"],
    ),
    "unindented comments": (
        "1. Fix:\n# 1. open\nf = open(x)\n# 3. read\nf.read()\n\n2. Why?",
        ["Fix:\n# 1. open\nf = open(x)\n# 3. read\nf.read()", "Why?"],
    ),
    "a table in an item": (
        "1. Sum the table:\n\n   | a | b |\n   |---|---|\n   | 1 | 2 |\n\n2. Why?",
        ["Sum the table:\n\n| a | b |\n|---|---|\n| 1 | 2 |", "Why?"],
    ),
    "JSON in an item": ('1. Fix this JSON: {"a": 1,}\n2. Why?', ['Fix this JSON: {"a": 1,}', "Why?"]),
    "code in a JSON string": ('["Fix:\\n```\\nif x:\\n    y\\n```"]', ["Fix:\n```\nif x:\n    y\n```"]),
    "tags in an item": ("1. What does <b>x</b> do?\n2. Why?", ["What does <b>x</b> do?", "Why?"]),
    "a decimal": ("1. 3.5 million people live here. Why?\n2. b", ["3.5 million people live here. Why?", "b"]),
    "a year": ("1. 2024 was warm. Why?\n2. b", ["2024 was warm. Why?", "b"]),
    "a number to begin with": ("1. 5 apples and 3 pears: how many?\n2. b", ["5 apples and 3 pears: how many?", "b"]),
    "a time": ("1. 1:30 pm is when?\n2. b", ["1:30 pm is when?", "b"]),
    "a colon in its middle": ("1. Translate into French: good day\n2. b", ["Translate into French: good day", "b"]),
    "a label's word": ("1. List 3 teas.\n2. Question 5 is hard. Why?", ["List 3 teas.", "Question 5 is hard. Why?"]),
    "lines with numbers": (
        "2024 was warm. Why?\n3.5 cups are how many ml?",
        ["2024 was warm. Why?", "3.5 cups are how many ml?"],
    ),
    "lines with a label's word": ("Query 3 databases.\nList 3 teas.", ["Query 3 databases.", "List 3 teas."]),
    "one line, a list's number": ("List 3 reasons to drink tea.", ["List 3 reasons to drink tea."]),
    "differences": ("10 - 3 is what?\n12 - 5 is what?", ["10 - 3 is what?", "12 - 5 is what?"]),
    "one difference": ("10 - 3 is what?\nWhat is tea?", ["10 - 3 is what?", "What is tea?"]),
    "thousands": ("1. 1,000 people live here. Why?\n2. b", ["1,000 people live here. Why?", "b"]),
    "a novel": ("1984: what is it about?\nWhy?", ["1984: what is it about?", "Why?"]),
    "a day": ("24/7 help: is it fair?\n3D printing: how?", ["24/7 help: is it fair?", "3D printing: how?"]),
    "a German date": (
        "3. Oktober 1990: Was geschah?\nWas ist Tee?",
        ["3. Oktober 1990: Was geschah?", "Was ist Tee?"],
    ),
    "data after a colon": (
        "Translate this into French:\nGood day.\n\nSum up the text.",
        ["Translate this into French:\nGood day.", "Sum up the text."],
    ),
    "lines and code": (
        "Explain this code:\n\n```\nif x:\n    y\n```\n\nWhat is tea?",
        ["Explain this code:\n\n```\nif x:\n    y\n```", "What is tea?"],
    ),
    "here as a word": ("1. Here is a text: tea. Sum it up.\n2. b", ["Here is a text: tea. Sum it up.", "b"]),
    "a note of the user": ("1. Plan a trip.\n   Note: no planes.\n2. b", ["Plan a trip.\nNote: no planes.", "b"]),
    "a heading as data": ("1. Write a README with:\n\n# Title\n\n2. b", ["Write a README with:\n\n# Title", "b"]),
    "lines and indented code": ("Why is this?\n\n    x = 1\n\nb", ["Why is this?\n\n    x = 1", "b"]),
    "a heading in a fence": ("1. a\n```\n# Title\n```\n2. b", ["a\n```\n# Title\n```", "b"]),
    "a list as data": (
        "Write an essay with these parts:\n1. Intro\n2. Body",
        ["Write an essay with these parts:\n1. Intro\n2. Body"],
    ),
    "bullets as data": (
        "What is tea?\n\nWrite in the style of:\n- Basho\n- Keats\n\nWho?",
        ["What is tea?", "Write in the style of:\n- Basho\n- Keats", "Who?"],
    ),
    "an assignment": ("1. What is x in: x = [1, 2]?\n2. b", ["What is x in: x = [1, 2]?", "b"]),
    "an input": ("Task: Sort.\nInput: 3, 1\n\nTask: Add.\nInput: 1, 2", ["Sort.\nInput: 3, 1", "Add.\nInput: 1, 2"]),
    "a JSON input": ('[{"instruction": "Sort.", "input": "3, 1"}]', ["Sort.\n3, 1"]),
    "quotations": ("1. Sum up:\n\n> Tea.\n\n2. Why?", ["Sum up:\n\n> Tea.", "Why?"]),
    "a sentence about a question": ("This is a question that people ask.", ["This is a question that people ask."]),
    "emphasis": ("1. *Why?*\n2. _How?_", ["Why?", "How?"]),
    "an apostrophe in quotes": ("1. 'Who's there?'\n2. b", ["Who's there?", "b"]),
    "the first without number": ("What is tea?\n2. Who drinks it?", TEA),
    "repeated": ("1. What is tea?\n2. what  is TEA?", ["What is tea?"]),
    "tags as data": (
        "1. Make JSON: <item>tea</item><item>milk</item>\n2. Why?",
        ["Make JSON: <item>tea</item><item>milk</item>", "Why?"],
    ),
    "plural labels": (
        "1. Tasks: name five.\n2. Questions: write two.",
        ["Tasks: name five.", "Questions: write two."],
    ),
    "placeholders": ("1. [Name] is who?\n2. [City] is where?", ["[Name] is who?", "[City] is where?"]),
    "one in brackets": ("1. (Optional) Brew.\n2. Drink.", ["(Optional) Brew.", "Drink."]),
    "a verb and a colon": ("1. Task: Brew.\n2. Translate: tea", ["Brew.", "Translate: tea"]),
    "steps": ("1. Sort:\n1. x\n2. y\n3. z\n2. Brew.", ["Sort:\n1. x\n2. y\n3. z", "Brew."]),
    "steps of the second": ("1. Brew.\n2. Sort:\n1. x\n2. y\n3. Sip.", ["Brew.", "Sort:", "x", "y", "Sip."]),
    "an answer in one": ("1. Is it so?\nQ: 1 + 1\nA: 3\n2. b", ["Is it so?\nQ: 1 + 1\nA: 3", "b"]),
    "words with commas": ("tea,milk\ncup,pot", ["tea,milk", "cup,pot"]),
    "marks alone": ("1.\n2.\n---\n", []),
    "nothing": ("", []),
    "an announcement alone": ("Here are your queries:", []),
}


@pytest.mark.parametrize(("text", "items"), CONTENT.values(), ids=CONTENT)
def test_parse_list_content_stays_as_written(text, items):
    assert parse_list(text) == items


CUT_OFF = {
    "in the last": ("1. A\n2. B", ["A"]),
    "in a repeated one": ("1. A\n2. B\n3. A", ["A", "B"]),
    "after a number": ("1. A\n2. B\n3.", ["A", "B"]),
    "in the closing": ("1. A\n2. B\n\nThese queries are", ["A", "B"]),
    "in the only one": ("1. A", []),
    "in lines": ("A\nB", ["A"]),
    "between two": ("1. What is tea?\n2. Who drinks it?\n", TEA),
    "in a numbered object": ('1. {"query": "What is tea?"}\n2. {"query": "Wh', ["What is tea?"]),
    "in JSON": ('["What is tea?", "Who dri', ["What is tea?"]),
    "in fenced objects": ('```json\n[\n  {"query": "What is tea?"},\n  {"query": "Who', ["What is tea?"]),
    "in an object's list": ('{"queries": ["What is tea?", "Who', ["What is tea?"]),
    "in an object's key": ('[{"query": "What is tea?"}, {"que', ["What is tea?"]),
    "between objects": ('[{"query": "What is tea?"}, {"query": "Who drinks it?"},', TEA),
    "in tags": ("<query>What is tea?</query>\n<query>Who dr", ["What is tea?"]),
    "in a table": ("| Query |\n|---|\n| What is tea? |\n| Who dri", ["What is tea?"]),
    "in code": ("1. A\n2. Fix:\n```\nif x:\n\n    y", ["A"]),
    "in the list's fence": ("```\n1. A\n2. B", ["A"]),
}


@pytest.mark.parametrize(("text", "items"), CUT_OFF.values(), ids=CUT_OFF)
def test_parse_list_cut_off_complete_items_stay(text, items):
    assert parse_list(text, cut_off=True) == items


@pytest.mark.parametrize(
    "completion",
    [
        "Write a haiku about rain.\n10. Explain rain\nto a child.\n11. Sum 2 and 3.",
        "Write a haiku about rain.\n\n10. Name a river.\n\n11. Make a plan:\n- go\n- return\n\n12. Sum 2 and 3.",
        "Is 3.5 more than 3?\n10 . Name a river.\n11. Say: 1. one",
    ],
)
def test_parse_list_continued_list_reads_as_the_paper(completion):
    """The paper splits at a line break, a number, a dot and a space."""
    by_paper = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\d+\s?\. ", completion)]
    assert [" ".join(item.split()) for item in parse_list(completion)] == by_paper


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_parse_list_long_text_returns_soon(text):
    """Each took minutes with an expression that tries every place twice, or exceeded the depth of recursion."""
    start = time.process_time()
    parse_list(text, cut_off=True)
    parse_records(text, bool)
    assert time.process_time() - start < 10
