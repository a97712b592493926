"""Classify the lines of a completion: announcements, titles, closing remarks, and list items by their markers.

Regular expressions in some 25 languages match nouns that label an item ("Question 1:"), phrases that announce a list
or a text ("Sure! Here are …:"), and closing remarks ("Let me know …").
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# --- phrases of models ---


_ENGLISH_NOUNS = r"quer(?:y|ies)|questions?|instructions?|prompts?|tasks?|requests?"
_NOUNS = (
    _ENGLISH_NOUNS,
    r"질문(?:들)?|질의|문제|요청|지시(?:문|사항)?|과제|프롬프트|쿼리|문항|명령(?:어|문)?",
    r"(?:用户|用戶)?(?:问题|問題|提问|提問|查询|查詢|指令|任务|任務|请求|請求|题目|題目|提示词?|提示詞?)",
    r"質問(?:文)?|問い|クエリー?|指示(?:文)?|タスク|依頼(?:文)?|プロンプト|リクエスト|設問|課題",
    r"preguntas?|consultas?|instrucci(?:ón|ones)|tareas?|solicitud(?:es)?|petici(?:ón|ones)",
    r"perguntas?|instruç(?:ão|ões)|tarefas?|pedidos?|solicitaç(?:ão|ões)",
    r"requêtes?|demandes?|consignes?|tâches?|domand[ae]|richiest[ae]|istruzion[ei]|compit[oi]",
    r"(?:nutzer|benutzer)?(?:an)?fragen?|anweisung(?:en)?|aufgaben?|aufträge?|aufforderung(?:en)?",
    r"vra(?:ag|gen)|opdracht(?:en)?|verzoek(?:en)?|ta(?:ak|ken)|instructies?",
    r"вопрос[ыа]?|запрос[ыа]?|задани[ея]|задач[аи]|инструкци[яи]|промпт[ыа]?|питання|запит[и]?|завдання",
    r"pytani[ea]|zapytani[ea]|poleceni[ea]|zadani[ea]|otázk[ay]|dotazy?|úkoly?",
    r"(?:ال)?(?:سؤال|سوال|أسئلة|استفسار(?:ات)?|طلب(?:ات)?|مطالبة|مهمة|مهام|تعليمات|استعلام(?:ات)?|موجه)|پرسش(?:‌ها)?",
    r"שאלה|שאלות|בקשה|בקשות|משימה|משימות|प्रश्न|सवाल|कार्य|निर्देश|प्रॉम्प्ट|अनुरोध",
    r"คำถาม|คำสั่ง|คำขอ|พรอมต์(?:ที่เขียนใหม่)?",
    r"soru(?:lar)?|sorgu(?:lar)?|görev(?:ler)?|talimat(?:lar)?|istem(?:ler)?|komut(?:lar)?",
    r"câu hỏi|câu lệnh|lời nhắc|truy vấn|yêu cầu|nhiệm vụ",
    r"pertanyaan|permintaan|tugas|instruksi|kueri|frågo?r?a?|spørgsmål|spørsmål|uppgifte?r?|opgaver?|oppgaver?",
    r"kysymy(?:s|kset)|ερωτήσεις|ερώτηση|întrebare|întrebări|kérdés(?:ek)?",
)
NOUN = "(?:" + "|".join(_NOUNS) + ")"
"""A name of an item: query, question, instruction, prompt, task, request."""

_REWRITTEN = (
    r"rewritten|revised|created|evolved|new|final|updated|improved|modified|enhanced|refined|reworded|rephrased"
    r"|harder|tougher|trickier|(?:(?:more|slightly|somewhat) )*(?:complex|challenging|difficult|detailed|advanced)"
    r"|재작성된|다시 작성된|다시 작성한|다시 쓴|새로운|수정된|개선된|변경된|더 어려운"
    r"|改写后的?|改寫後的?|重写后?的?|重寫後?的?|新的?|修改后的?|改进后的?|更新后的?"
    r"|書き換えた|書き換えられた|書き換え後の|書き直した|書き直された|新しい|改訂された|修正された|改善された"
    r"|reescrit[oa]|reformulad[oa]|nuev[oa]|nov[oa]|revisad[oa]|modificad[oa]|mejorad[oa]"
    r"|réécrite?|reformulée?|nouve(?:lle|au)|révisée?|modifiée?"
    r"|neue[rs]?|umformulierte[rs]?|umgeschriebene[rs]?|überarbeitete[rs]?|schwierigere[rs]?|nieuwe|herschreven"
    r"|riscritt[oa]|riformulat[oa]|nuov[oa]|modificat[oa]"
    r"|переписанн\w+|переформулированн\w+|нов(?:ый|ая|ое|ого|ой)|обновл\w+|измен[её]нн\w+|усложн[её]нн\w+|новий"
    r"|нова|нове"
    r"|przepisan[yae]|now[yae]|yeni(?:den yazıl(?:mış|an))?|güncellenmiş|baru|mới"
    r"|(?:được )?viết lại|नया|पुनर्लिखित|संशोधित|ที่เขียนใหม่|ใหม่"
)
_ADJECTIVES = rf"user(?:'s)?|sample|example|follow-?up|사용자|the|{_REWRITTEN}"
_ORDINALS = (
    r"first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|(?:첫|두|세|네|다섯|여섯|일곱|여덟|아홉|열)\s?번째|첫째|둘째|셋째|넷째|다섯째"
    r"|primer[ao]?|segund[ao]|tercer[ao]?|cuart[ao]|quint[ao]|primeir[ao]|terceir[ao]"
    r"|premi(?:er|ère)|deuxième|seconde?|troisième|quatrième|cinquième"
    r"|erste[rs]?|zweite[rs]?|dritte[rs]?|vierte[rs]?|fünfte[rs]?|перв(?:ый|ое|ая)|втор(?:ой|ое|ая)"
    r"|трет(?:ий|ье|ья)|четв[её]рт(?:ый|ое|ая)|пят(?:ый|ое|ая)"
)
_NAME = rf"(?:(?:{_ADJECTIVES}|{_ORDINALS})\s*){{0,3}}{NOUN}"
ORDINALS = (
    r"first(?:ly)?|첫째|第一|primer[oa]|primeir[oa]|premièrement|erstens|во-первых|أولاً|أولا|przede"
    r"|birinci(?:si)?|pertama",
    r"second(?:ly)?|둘째|第二|segund[oa]|deuxièmement|zweitens|во-вторых|ثانياً|ثانيا|ikinci(?:si)?|kedua",
    r"third(?:ly)?|셋째|第三|tercer[oa]|terceir[oa]|troisièmement|drittens|в-третьих|ثالثاً|ثالثا|üçüncü(?:sü)?"
    r"|ketiga",
    r"fourth(?:ly)?|넷째|第四|cuart[oa]|quart[oa]|quatrièmement|viertens|в-четвёртых|в-четвертых|رابعاً|رابعا"
    r"|keempat",
    r"fifth(?:ly)?|다섯째|第五|quint[oa]|cinquièmement|fünftens|в-пятых|خامساً|خامسا|kelima",
)
"""Ordinals from first to fifth, one pattern each."""
LABEL = (
    rf"(?:{_NAME}(?:\s+(?:{_REWRITTEN})|\s+(?:الأول|الثاني|الثالث|الرابع|الخامس|الجديدة?|المعدلة?)"
    rf"|\s+ال?معادة? صياغته?ا?)?)"
)
"""A name of an item with an adjective or ordinal: "Rewritten prompt", "First question"."""

TEXT_LABEL = (
    rf"(?:{LABEL}|(?:(?:the|an?) )?(?:{_REWRITTEN}) (?:version|prompt)|rewritten|revised|reworded|rephrased"
    rf"|改写|改寫|重写"
    r"|書き換え|재작성)(?:[ \t]*[(（][^()（）\n]{1,60}[)）])?"
)
"""A label of a new version of a text: "Revised version", "Rewritten (with a constraint)"."""

_ANSWERS = (
    r"answers?|responses?|a|assistant|답변?|정답|答案?|回答|解答|respuestas?|respostas?|réponses?"
    r"|risposta|antwort"
    r"|ответ|الجواب|الإجابة|odpowiedź|antwoord|cevap|jawaban|उत्तर"
)
ANSWER = re.compile(rf"^\W*(?:{_ANSWERS})(?:\s*\d+)?[*_]*\s*[:：]", re.IGNORECASE)
"""The beginning of an answer to the item before it."""
ANSWER_HEADING = re.compile(rf"^[ \t]*#[ \t]*(?:{_ANSWERS})[ \t]*#", re.IGNORECASE)
"""A heading of the form "#Answer#:"."""

_COURTESY = (
    r"sure(?: thing)?|i'd be (?:happy|glad) to(?: help)?|i’d be (?:happy|glad) to(?: help)?|certainly|of course"
    r"|absolutely|okay|ok|got it|understood|gladly|happy to help|no problem|great"
    r"|물론(?:이죠|입니다)?|네|좋습니다|알겠습니다|当然(?:可以)?|好的|没问题|當然|はい|もちろん(?:です)?"
    r"|承知(?:しま|いたしま)した|わかりました"
    r"|claro(?: que sí)?|por supuesto|desde luego|con gusto|bien sûr|d'accord|avec plaisir|certainement"
    r"|natürlich|gerne|sicher|klar"
    r"|certo|certamente|com certeza|конечно|хорошо|звичайно|oczywiście|jasne|natuurlijk|zeker|بالتأكيد|بالطبع"
    r"|حسن[اً]+|tabii(?: ki)?"
    r"|elbette|tentu(?: saja)?|chắc chắn(?: rồi)?|được rồi|ज़रूर|बिल्कुल|แน่นอน|självklart|selvfølgelig|בטח|כמובן"
)
_POINTING = (
    r"here(?:'s|’s| is| are| you go| you are|)|below (?:is|are|you)|these are|this is|the following"
    r"|following (?:is|are)"
    r"|다음은|아래[는에]|여기|다음과 같|以下(?:是|为|は|が|に|、|の)|下面是|这是|这里是|這是|こちら[がはに]"
    r"|次の|次が"
    r"|aquí|a continuación|estas son|esta es|aqui|a seguir|segue[m]?|voici|ci-dessous|voilà|hier|nachfolgend"
    r"|folgende|im folgenden"
    r"|unten|ecco|di seguito|вот|ниже|ось|нижче|oto|poniżej|hieronder|إليك[م]?|فيما يلي|هذه|هذا|işte|aşağıda"
    r"|berikut|dưới đây|đây là"
    r"|यहाँ|निम्नलिखित|नीचे|นี่คือ|ต่อไปนี้|här är|her er|הנה|להלן"
)
COURTESY = re.compile(rf"^[\W_]*(?:{_COURTESY})(?=[\s!,.:：！，。、-]|$)", re.IGNORECASE)
"""A courtesy at the beginning of a completion, such as "Sure!"."""
POINTING = re.compile(rf"^[\W_]*(?:{_POINTING})(?!\w*['’]t)", re.IGNORECASE)
"""The beginning of a phrase that points at the text after it: "Here is …"."""
TEXT_NOUN = re.compile(
    rf"{NOUN}|\b(?:version|rewrit\w*|rewording|revision|alternative|variant|versión|versão|versione|reformul\w*)\b"
    r"|버전|다시 (?:쓴|작성)|재작성|改写|版本|重写|書き換え|バージョン|fassung|вариант|верси|نسخة|phiên bản",
    re.IGNORECASE,
)
"""A noun in an announcement: a query, a version."""
LIST_NOUN = re.compile(r"\b(?:list|liste|lista|lijst)\b|목록|列表|リスト|список|قائمة|daftar|danh sách", re.IGNORECASE)
REWRITING = re.compile(
    rf"(?<!\w)(?:{_REWRITTEN}|version|rewrite|rewording|rephrasing|revision|variant|versión|versão|versione"
    rf"|버전|版本|バージョン|fassung"
    r"|вариант|версия|версию|نسخة|النسخة)(?!\w)|改写|改寫|重写|書き換え|재작성|다시 (?:쓴|작성)",
    re.IGNORECASE,
)
"""A word that calls a text a new version of another: "rewritten"."""
OFFER = re.compile(
    r"(?:i|we)(?: can| could|['’]ll| will|['’]d| would|['’]m| am|['’]ve| have)\b[^.!?]*\b(?:help|write|wrote"
    r"|written|provide|create|created|give"
    r"|complete|rewrite|generate|generated|come up|do (?:that|this|it)|make|list|assist|prepared?)\b[^?]*$"
    r"|let (?:me|us)\b|let['’]s\b",
    re.IGNORECASE,
)
"""The beginning of a sentence in which a model says that it carries out the request."""
HERE = re.compile(
    r"^\W*(?:here|aquí|aqui|voici|voilà|hier|ecco|вот|ось|oto|işte|إليك|여기|berikut|här|her)\b", re.IGNORECASE
)
"""A word that announces any text after it."""
PRESENTING = re.compile(
    r"^[\W_]*(?:the|a|an|one|another|my|this|i|i['’]ve|let me|we|to make|in order to)\b[^\n.:?]{0,100}"
    r"(?:\b(?:is|are|was|be|reads|as|follows|ask|you|harder|prompt|version))\s*[*_]*[:：]"
    r"|^[^\n.:：?？。]{1,60}(?:(?:以下|次)の(?:通り|とおり)(?:です)?|如下|다음과 같(?:습니다|아요))\s*[*_]*[:：]",
    re.IGNORECASE,
)
"""A phrase that presents the text after it: "The rewritten prompt is:"."""
SUGGESTION = re.compile(
    r"^[\W_]*(?:how about|what about|try|maybe|perhaps)(?: something like)? this(?: one| version| prompt| instead)?"
    r"\s*[*_]*[:?][*_]*(?:[ \t]*\n[ \t]*\n|\s*(?=[\"“][^\"”]*[\"”]\s*$))",
    re.IGNORECASE,
)
"""A phrase that offers the paragraphs, or the quotation, after it: "How about this:"."""
REQUEST = re.compile(
    r"\b(?:please|my|our|bitte|mein|por favor|mi|mis|s'il (?:vous|te) pla[iî]t|mon|пожалуйста|per favore)\b|请"
    r"|請|주세요|하세요|하시오"
    r"|하라|해줘|ください|下さい|なさい|せよ|من فضلك|يرجى",
    re.IGNORECASE,
)
"""Phrases of a user's request, which no model's announcement has."""

_THESE = (
    r"(?:these|those|the above|all(?: of)?(?: these| the)?|each(?: of these)?|this (?:list|set))\s+(?:\w+\s+)?"
    rf"(?:{_ENGLISH_NOUNS}|examples?|list|set)\s+(?:\w+\s+)?(?:are|is|was|were|will|can|could|should|would|may"
    rf"|might|cover|"
    r"aim|address|test|explore|vary|help|range|focus|ask|touch|offer|provide|include|have|has|encourage"
    r"|demonstrate|use|mix)\w*"
)
_OFFERING = (
    r"let me know (?:if|whether|what|how|which) (?:you(?:['’]d like|['’]d prefer| would like| want| need| think"
    r"| have)(?! details| information)"
    r"|this|that|it|these|there)|i(?: do|) hope (?:this|these|that helps|it helps)\b|hope (?:this|these|that|it)\b"
    r"|feel free to (?:let me know|ask (?:if|for (?:more|another|any)|any)\b"
    r"|(?:ask|use|modify|adapt|adjust|change|customi[sz]e)(?: (?:it|them|these|this(?: prompt| version)?))?"
    r"(?=[.!]| as | or | if | to (?:fit|suit)|$))"
    r"|would you like (?:me|more|any|another)|do you (?:want|need) (?:me|more|any)|shall i\b"
    r"|is there anything (?:else|you)"
    r"|if you(?:['’]d like| would like| need| want)(?: me to| any more| more| further| additional| another"
    r"| other|,? (?:i|just))"
    r"|how (?:does|do) (?:this|that|these) (?:look|sound)|is (?:this|that) what you|does (?:this|that) work"
)
_SPEAKING = (
    r"i(?:['’]ve| have)? (?:just |also )?(?:added|rewrote|rewritten|changed|replaced|modified|kept|tried"
    r"|included|made|expanded|revised)\b(?!.*\?$)"
    rf"|(?:this|the) (?:{_REWRITTEN}|above|added|additional) (?:prompt|version|question|query|instruction"
    rf"|constraint|requirement|task)"
    r"|this (?:prompt|version|rewrite|revision|question|instruction|task) (?:\w+ly )?(?:is (?:now|more|harder"
    r"|designed|intended|meant|somewhat"
    r"|slightly)|adds|now|requires|makes|keeps|introduces|increases|builds|challenges|encourages|maintains"
    r"|includes|goes)"
    r"|this (?:now )?(?:adds|makes|increases|requires|raises|introduces|keeps) (?:the|a|an|it|more|one)\b"
    r"|in this (?:rewritten |new |revised )?version"
    r"|by (?:adding|requiring|asking|including|introducing|specifying)\b[^.]*\b(?:prompt|question|task"
    r"|instruction|i|we|it)\b"
    r"|(?:key |summary of |explanation of )?changes(?: made)?\s*[*_]*:|(?:added|new"
    r"|additional) constraints?\s*[*_]*:"
    r"|explanation(?: of (?:the )?(?:changes?|rewrite))?\s*[*_]*:(?=.*\b(?:prompt|version|i|added|rewritten)\b)"
    r"|why (?:this|it)(?: is|['’]s)\b[^?]*[:*]"
    r"|what (?:i |has )?changed|end of (?:list|queries|prompt)|#end#"
)
REMARK = re.compile(
    r"^[\W_]*(?:explanation|rationale|reasoning|purpose|why|intent|difficulty|category|설명|의도|解释|解释说明"
    r"|説明|意図|explicación|explication"
    r"|erklärung|begründung|spiegazione|explicação|пояснение|объяснение|شرح)[*_]*\s*[:：][*_]*\s*\S"
    r"|^\s*[(（*_]+(?:this|it) .*[)）*_]\s*$",
    re.IGNORECASE,
)
"""A line that explains the item before it."""
CLOSING = re.compile(
    r"^[\W_]*(?:"
    rf"{_OFFERING}|{_SPEAKING}|{_THESE}"
    r"|이 (?:프롬프트|버전)[은는]|这个(?:版本|提示)|此(?:版本|提示)|改写后的|この(?:質問|プロンプト|バージョン"
    r"|書き換え)(?:は|では|に)"
    r"|est[ae] (?:versión|prompt)|cette version|ce prompt|diese (?:version|fassung)|dieser prompt|эта версия"
    r"|этот запрос|questa versione"
    r"|이 질문들?은|이러한 질문|위의? 질문|이상(?:의|입니다)|도움이 (?:되|필요)|추가된 (?:제약|조건|요구)"
    r"|添加的(?:约束|限制|要求)|追加(?:された|した)(?:制約|条件)|(?:더|추가로|다른).{0,12}필요하(?:시|면)"
    r"|필요하시면|언제든지|참고[:：]"
    r"|希望(?:这|以上|能|對|对)|(?:这些|以上|上述|這些)(?:问题|問題|指令|查询|查詢|提问|任务|请求)|如果(?:你"
    r"|您)?(?:还)?(?:需要|有(?:任何|其他))|如有|如需"
    r"|请告诉我|请随时|(?:これら|以上|上記)(?:の|が|は|、)?(?:質問|クエリ|指示|タスク|問題|です)|お役に立"
    r"|(?:必要|ご希望)(?:であれば|でしたら|に応じ)"
    r"|お気軽に|他にも?.{0,10}(?:ございましたら|あれば)|ご不明"
    r"|espero que|estas (?:preguntas|consultas|instrucciones|tareas)|(?:si|se) (?:necesitas|quieres|precisar"
    r"|quiser|desea)|avísame"
    r"|hazme saber|déjame saber|no dudes|me avise|estas perguntas|essas (?:perguntas|consultas)"
    r"|j'espère|j’espère|ces (?:questions|requêtes|demandes|instructions)|n'hésite[zs]?|n’hésite[zs]?|dites-moi"
    r"|faites-moi savoir"
    r"|ich hoffe|diese (?:fragen|anfragen|anweisungen|aufgaben)|lass(?:en sie)? (?:es )?mich"
    r"|sag(?:en sie)? (?:mir )?bescheid|bei bedarf"
    r"|spero che|queste (?:domande|richieste)|fammi sapere|ik hoop|deze (?:vragen|opdrachten)|laat (?:het )?me"
    r"|надеюсь|эти (?:вопросы|запросы|задания)|дайте знать|если (?:вам )?нужн|сподіваюся|ці (?:питання|запити)"
    r"|mam nadzieję|te pytania"
    r"|آمل|أتمنى|أرجو أن|هذه (?:الأسئلة|الطلبات|الاستفسارات)|إذا كنت (?:بحاجة|ترغب)|umarım|bu sorular|semoga"
    r"|pertanyaan-pertanyaan ini"
    r"|hy vọng|những câu hỏi|आशा|ये (?:प्रश्न|सवाल)|หวังว่า|คำถามเหล่านี้|jag hoppas|jeg håber|אני מקווה|שאלות אלו"
    r")",
    re.IGNORECASE,
)
"""The beginning of a sentence in which a model comments on its own text."""
FAREWELL = re.compile(
    r"^[\W_]*(?:let me know\b|(?:thank(?:s| you)|enjoy|good luck)(?: \w+){0,3}[!.]*$|i(?: do|) hope\b"
    r"|if you (?:have|need|want)\b|feel free\b"
    r"|(?:these|those|this|the above|each|all)\b.*\b(?:cover|vary|are|is|should|can|will|help)\w*\b)",
    re.IGNORECASE,
)
"""The beginning of a closing sentence that an instruction may have as well; it counts after lists only."""
_NOTE_WORDS = (
    r"note|please note|n\.?b\.?|explanation|rationale|reasoning|comment|remarks?|disclaimer|참고|설명|주|注"
    r"|备注|備註|说明|說明|解释|注意|補足|備考|説明"
    r"|nota|explicación|remarque|explication|hinweis|anmerkung|erklärung|spiegazione|explicação|примечание"
    r"|пояснение|ملاحظة|شرح"
    r"|opmerking|uwaga|not|catatan|lưu ý|ghi chú|टिप्पणी|หมายเหตุ"
)
NOTE_HEADING = re.compile(
    rf"^[\W_]*(?:{_NOTE_WORDS}|(?:key |summary of |explanation of )?(?:the )?changes(?: made)?|what (?:i )?changed)"
    r"[\W_]*$",
    re.IGNORECASE,
)
"""A line that is the heading of a note."""
NOTE = re.compile(rf"^[\W_]*(?:{_NOTE_WORDS})(?:\s*\d?[*_]*\s*[:：]|\s+that\b)", re.IGNORECASE)
"""The beginning of a note: by the model on its own text, or a part of that text."""
OF_THE_MODEL = re.compile(
    r"\bi(?:'ve|’ve| have)? (?:\w+ed|made|kept|wrote|rewrote|rewritten)\b|\b(?:these|this"
    r"|the)(?: \w+)? (?:prompts?|versions?|rewrites?|instructions?|questions?|quer(?:y|ies)"
    r"|tasks?)\b|\brewr\w+|\b(?:was|were|been) (?:added|changed|made)|\b(?:added|adds) (?:a|an|one|the|more)\b"
    r"|\badded (?:constraint|requirement|limit|detail)"
    r"|질문|프롬프트|추가|改写|问题|提示|添加|增加|質問|プロンプト|追加|書き換え"
    r"|\b(?:pregunta|añad|agreg|prompt|ajout|question|hinzugefügt|frage|добавл|вопрос|domand|aggiunt|pergunt"
    r"|adicion)\w*|أضفت|السؤال|الأسئلة",
    re.IGNORECASE,
)
"""Words that only a model's note on its own text has."""


# --- lines ---


FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*$")
RULE = re.compile(r"^[ \t]*(?:[-–—*_=~][ \t]*){3,}$")
HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(?=\S)|^[ \t]*#{1,6}(?=[^\s#!])")
_BOLD_LINE = re.compile(r"^[ \t]*(\*\*|__)(?=\S)(?:(?!\1).)+\1[ \t]*[:：]?[ \t]*$")
SENTENCE_END = re.compile(r"[.?!。？！؟।…][\"'”’»」』)*_]*$")
COLON_END = re.compile(r"[:：][\s*_]*$")


def is_announcement(line: str, in_list: bool = False) -> bool:
    """Return whether a line announces the text after it: "Here is the rewritten prompt:".

    Args:
        line: One line.
        in_list: Whether a list is expected next. A line that only names its items then counts too: "Questions:".
    """
    line = line.strip()
    courteous = COURTESY.match(line)
    if len(line) > 300 or (REQUEST.search(line) and not courteous):
        return False
    if courteous:
        rest = line[courteous.end() :].strip(" !,.:：！，。、*-")
        while twice := COURTESY.match(rest):
            rest = rest[twice.end() :].strip(" !,.:：！，。、*-")
        speaks = (_points_to_text(rest) and not REQUEST.search(rest)) or OFFER.match(rest) is not None
        return not rest or COLON_END.search(line) is not None or speaks
    if not COLON_END.search(line):
        return in_list and _announces_list_in_sentence(line)
    if in_list and (TEXT_NOUN.search(line) or LIST_NOUN.search(line) or HERE.match(line)):
        return True
    return _announces_text(line)


def _points_to_text(line: str) -> bool:
    return POINTING.match(line) is not None


def _announces_list_in_sentence(line: str) -> bool:
    """Return whether a sentence without a colon announces a list: "Here are two queries for you."."""
    is_short = len(line) <= 150 and not line.endswith(("?", "？")) and not re.search(r"[:：\"“]", line)
    return (
        _points_to_text(line)
        and is_short
        and not line.casefold().startswith("this")
        and TEXT_NOUN.search(line) is not None
    )


def _announces_text(line: str) -> bool:
    """Return whether a line with a colon announces a new version of a text."""
    about = TEXT_NOUN.search(line) is not None and LIST_NOUN.search(line) is None
    is_new = REWRITING.search(line) is not None
    if _points_to_text(line):
        return is_new or (about and not _VAGUE.match(line))
    if HEADING.match(line):
        return about
    return PRESENTING.match(line) is not None and (is_new or line.casefold().startswith(("to make", "let me", "i ")))


_VAGUE = re.compile(r"[\W_]*(?:below|this|these|(?:the )?following|هذا|هذه)\b", re.IGNORECASE)


def is_only_announcement(text: str) -> bool:
    """Return whether a text is one line that announces a list or a text, and nothing else."""
    return "\n" not in text and COLON_END.search(text) is not None and is_announcement(text, in_list=True)


def is_closing(line: str, in_list: bool = False) -> bool:
    """Return whether a line is a closing remark, in which the model comments on the text before it."""
    line = line.strip()
    if presents_inline(line):
        return False
    if CLOSING.match(line) or (in_list and FAREWELL.match(line)):
        return True
    if line[:1] in "(（[*_" and line[-1:] in ")）]*_" and _IN_BRACKETS.search(line):
        return True
    return NOTE.match(line) is not None and OF_THE_MODEL.search(line) is not None


_IN_BRACKETS = re.compile(
    r"^\W*(?:\d+ words|word count|(?:this|i|it) (?:\w+ )?add(?:s|ed)|added|new constraint"
    r"|this (?:version|prompt|makes))\b|字数|단어 수",
    re.IGNORECASE,
)


def presents_inline(line: str) -> bool:
    """Return whether a line presents a text on the same line: "The rewritten prompt is: …"."""
    found = PRESENTING.match(line)
    return found is not None and REWRITING.search(found.group()) is not None and bool(line[found.end() :].strip(" *_"))


def announces_inline(phrase: str) -> bool:
    """Return whether a phrase before a colon announces the rest of its line: "Sure! Here is the query: …"."""
    courteous = COURTESY.match(phrase)
    rest = phrase[courteous.end() :].lstrip(" !,.！，。、-") if courteous else phrase
    if REQUEST.search(phrase) or not (_points_to_text(rest) or PRESENTING.match(rest)):
        return False
    if re.fullmatch(r"here (?:you go|it is|you are)[:：]", rest, re.IGNORECASE):
        return True
    return TEXT_NOUN.search(rest) is not None and (courteous is not None or REWRITING.search(rest) is not None)


def closes_fence(line: str, mark: str) -> bool:
    """Return whether a line closes the code fence that `mark` opened."""
    found = FENCE.match(line)
    return found is not None and found.group(1).startswith(mark) and not found.group(2)


def fenced_lines(lines: Sequence[str]) -> list[bool]:
    """Return for each line whether it belongs to a fenced code block; the fences do."""
    inside: list[bool] = []
    mark = ""
    for line in lines:
        found = _FENCE_IN_ITEM.match(line)
        if mark:
            inside.append(True)
            mark = "" if closes_fence(line, mark) else mark
        else:
            mark = found.group(1) if found else ""
            inside.append(bool(found))
    return inside


_FENCE_IN_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*$")


def nonblank_lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not blank."""
    return [line for line in lines if line.strip()]


def is_introduction(lines: Sequence[str]) -> bool:
    """Return whether each of at most three lines announces a list or is a heading; True for no lines."""
    if any(any_marker(line) for line in lines) or len(lines) > 3:
        return False
    return all(is_announcement(line, in_list=True) or HEADING.match(line) or is_title(line) for line in lines)


def is_title(line: str) -> bool:
    """Return whether a line is entirely bold and doesn't end as a sentence does."""
    return _BOLD_LINE.match(line) is not None and SENTENCE_END.search(line.strip()) is None


# --- markers of list items ---


@dataclass(frozen=True)
class Marker:
    """The marker of a list item: its indentation, number, form and width in columns, and the text after it."""

    indent: int
    value: int | None
    form: str
    text: str
    width: int


_LIST_LABEL = rf"(?:{LABEL}|items?|examples?|exercises?|problems?|command|q|问|問)"
_OPEN = (
    r"^(?P<indent>[ \t\u3000]*)[\"“]?(?:\#{1,6}[ \t]*)?(?P<open>\*\*\*|\*\*|__|\*(?=\S)|_(?=\S))?"
    r"(?:[\[(（【〔〈<「][ \t]*)?"
)
_CLOSE = r"(?(open)(?:(?P=open))?)"
_CJK_NUMERAL = "[一二三四五六七八九十]{1,3}"
_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MONTH = re.compile(
    r"(?:jan|feb|mär|mar|apr|mai|maj|jun|jul|aug|sep|okt|nov|dez|dec)[\w.]*\s+\d|(?:januar|februar|märz|april"
    r"|mai|juni|juli|august"
    r"|september|oktober|november|dezember|jahrhundert|weltkrieg|bundesliga|liga|klasse|stock|platz)\b",
    re.IGNORECASE,
)
_NUMBER_FORMS = tuple(
    re.compile(_OPEN + form + _CLOSE + r"[ \t\u3000]*", re.IGNORECASE)
    for form in (
        # Query 1:   Question #2.   질문 1:   问题一：   [Question 1]
        rf"(?P<label>{_LIST_LABEL})[ \t._-]*(?:no\.?|nr\.?|№|n[º°]\.?|\#)?[ \t]*[(\[（【]?"
        rf"(?P<number>\d{{1,3}}|{_CJK_NUMERAL}"
        rf"|{'|'.join(_WORDS)})[)\]）】]?(?:번|号|號|番|目)?"
        rf"(?:[ \t]*[(（][^()（）\n]{{1,30}}[)）](?=[*_ \t]*[:：]))?{_CLOSE}[ \t]*"
        r"(?:[.:：)\]】）〉>」、．，]+(?=\D|$)|[-–—](?=\s)|\u3000|$)",
        # 第一个问题：   第1，   1번 질문:   2nd query:
        rf"(?P<label>第)?(?P<number>\d{{1,3}}|{_CJK_NUMERAL})(?:번째?|番目の?|つ目の?|个|個|条|條|题|題|问|問"
        rf"|点|點|項|项|st|nd|rd|th)?"
        rf"[ \t]*(?(label)(?:{_LIST_LABEL})?|{_LIST_LABEL}){_CLOSE}[ \t]*[:：、，,.．)）】](?=\D|$)",
        # 1.   1)   (1)   [1]   1번.   １．   ١.   1\.   1.-   1 -   1 |   1/
        r"(?:(?:no\.?|nr\.?|№|\#)[ \t]*)?(?P<number>\d{1,3})(?:번째?|[ºª°])?"
        + _CLOSE
        + r"(?:\\?[.)\]】）〕〉>」:：、．]+-?(?=\D|$)|[ \t]+[-–—.)|](?=\s)|[-–—/](?=[ \t])|\t|(?<=[ºª°])(?=[ \t]))",
        # 一、   （一）   十.
        rf"(?P<number>{_CJK_NUMERAL}){_CLOSE}[、．.:：)）】〕]",
        # ①   ⒈   1️⃣
        r"(?P<number>[①-⑳❶-❿⓵-⓾⑴-⒇⒈-⒛㈠-㈩㊀-㊉]|\d(?=\ufe0f?\u20e3)|🔟)\ufe0f?\u20e3?"
        + _CLOSE
        + r"(?:[.:：)、．）](?=\D|$))?",
        # #1 What
        r"\#(?P<number>\d{1,3})" + _CLOSE + r"(?=[ \t])",
    )
)
_SECTION_NUMBER = re.compile(rf"{_OPEN}\d{{1,2}}\.(?P<number>\d{{1,2}})\.?{_CLOSE}[ \t]+(?=[^\W\d_])")  # 1.2 What
_GENERIC_NUMBER = re.compile(
    _OPEN + rf"(?P<label>[^\W\d_][^\d:：.\n]{{0,30}}?)[ \t]*(?:\#|№|no\.?)?[ \t]*(?P<number>\d{{1,3}}){_CLOSE}[ \t]*"
    rf"[:：.)–—-]+(?=\D|$){_CLOSE}[ \t]*",
    re.IGNORECASE,
)
_ORDINAL_FORM = re.compile(rf"{_OPEN}(?P<word>{'|'.join(ORDINALS)}){_CLOSE}[:：,،，.、]{_CLOSE}[ \t]*", re.IGNORECASE)
_LABEL_FORM = re.compile(
    rf"{_OPEN}(?:{_LIST_LABEL}|user|human)"
    rf"(?:[\]】>」）)]{_CLOSE}[ \t]*[:：]?|{_CLOSE}[ \t]*[:：]{_CLOSE}|(?<=\bq)[.．](?=\s))[ \t]*",
    re.IGNORECASE,
)
_LABEL_TITLE = re.compile(
    rf"^(?P<indent>[ \t]*)\#{{1,6}}[ \t]*(?P<open>\*\*)?{_LIST_LABEL}[ \t]*{_CLOSE}[ \t]*$", re.IGNORECASE
)
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмн",
    "가나다라마바사아자차카타파하",
    "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊ",
    "أبجدهوزحطي",
    "アイウエオカキクケコ",
    "イロハニホヘト",
    "あいうえおかきくけこ",
    "甲乙丙丁戊己庚辛壬癸",
    "אבגדהוזחטי",
    "αβγδεζηθικ",
    "กขคงจฉชซ",
    "कखगघङ",
)
ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv")
_LETTER = re.compile(_OPEN + rf"(?P<letter>[^\W\d_]{{1,5}}){_CLOSE}[.)）\]、．]{_CLOSE}(?=\s)[ \t]*")
_BULLET = re.compile(
    r"^(?P<indent>[ \t\u3000]*)(?:[-+*–—](?=[ \t])"
    r"|[•·▪◦‣●○■□►▶➤➢➜→✓✔✅☑・◆◇★☆▸▹❓❔👉🔹🔸🔶🔷⭐](?!\w*:)\ufe0f?)[ \t]*(?:\[[ xX]?\][ \t]+)?"
)


def any_marker(line: str) -> Marker | None:
    """Return the number, label or bullet at the beginning of a line, or None."""
    return number_marker(line) or label_marker(line) or bullet_marker(line)


def number_marker(line: str) -> Marker | None:
    """Return the number at the beginning of a line, with or without a label before it: "1.", "Question 1:"."""
    for form, pattern in enumerate(_NUMBER_FORMS):
        found = pattern.match(line)
        if found is None:
            continue
        label = found.groupdict().get("label") or ""
        if not label and "." in found.group() and _MONTH.match(line[found.end() :]):
            return None  # 3. Oktober 1990: …
        dash = "-" if found.group().rstrip().endswith(("-", "–", "—", "/")) and not label else ""
        return _marker(line, found, _value_of(found["number"]), f"{form}{label.casefold()}{dash}")
    return None


def section_number_marker(line: str) -> Marker | None:
    """Return a number of two parts, of which the second is the item's: "1.2 …"."""
    found = _SECTION_NUMBER.match(line)
    return found and _marker(line, found, _value_of(found["number"]), "section")


def generic_number_marker(line: str) -> Marker | None:
    """Return words and a number at the beginning of a line: "Nutzerfrage 1: …"."""
    found = _GENERIC_NUMBER.match(line)
    return found and _marker(line, found, _value_of(found["number"]), found["label"].casefold())


def label_marker(line: str) -> Marker | None:
    """Return a label without a number at the beginning of a line: "Question: …"."""
    found = _LABEL_FORM.match(line) or _LABEL_TITLE.match(line)
    return found and _marker(line, found, None, "label")


def bullet_marker(line: str) -> Marker | None:
    """Return the bullet at the beginning of a line, unless the line is a horizontal rule."""
    found = None if RULE.match(line) else _BULLET.match(line)
    return found and _marker(line, found, None, "bullet")


def letter_markers(alphabet: Sequence[str]) -> Callable[[str], Marker | None]:
    """Return a function that finds a letter of an alphabet at the beginning of a line: "a) …", "가. …"."""

    def read(line: str) -> Marker | None:
        found = _LETTER.match(line)
        letter = found["letter"].lower() if found else ""
        if found is None or letter not in alphabet:
            return None
        return _marker(line, found, list(alphabet).index(letter) + 1, "letter")

    return read


def _marker(line: str, found: re.Match[str], value: int | None, form: str) -> Marker:
    """Return the marker of a match. Emphasis that opens before the marker and closes after it belongs to the text."""
    opening = found.groupdict().get("open") or ""
    is_closed = not opening or found.group().count(opening) > 1
    text = line[found.end() :]
    form += "#" if line.lstrip().startswith("#") and " " in found.group().strip() else ""
    indent = len(found["indent"].expandtabs(4))
    return Marker(indent, value, form, text if is_closed else opening + text, len(found.group().expandtabs(4)))


def _value_of(number: str) -> int:
    """Return the value of a numeral.

    >>> [_value_of(number) for number in ("12", "١", "③", "十二", "二十", "three")]
    [12, 1, 3, 12, 20, 3]
    """
    if number.casefold() in _WORDS:
        return _WORDS.index(number.casefold()) + 1
    if number == "🔟":
        return 10
    if number.isdecimal():
        return int(number)
    if len(number) == 1:
        return int(unicodedata.numeric(number))
    tens, _, ones = number.partition("十")
    return (
        (_value_of(tens) if tens else 1) * 10 + (_value_of(ones) if ones else 0)
        if "十" in number
        else _value_of(number[0])
    )


def ordinal_marker(line: str) -> Marker | None:
    """Return the ordinal at the beginning of a line: "First: …", "둘째, …"."""
    found = _ORDINAL_FORM.match(line)
    if found is None:
        return None
    word = found["word"].casefold()
    value = next(n for n, words in enumerate(ORDINALS, start=1) if re.fullmatch(words, word, re.IGNORECASE))
    return _marker(line, found, value, "ordinal")
