"""Instructions in twelve languages, in pairs: nearly the same ones, and unlike ones.

The pairs say the same in each language, as far as its grammar lets them. Of the unlike ones, three pairs share no more
than a number or a name in Latin letters, and one has the same frame.
"""

from hfsynth.similarity.words import compared_words


class WordsOfAnyScript:
    """A tokenizer for rouge_score's scorer."""

    def tokenize(self, text):
        return compared_words(text)


NEAR = {
    "en": [
        ("Name three primary colours.", "Please name three primary colours."),
        ("Write a short poem about the sea in winter.", "Write a short poem about the sea in summer."),
        ("Give me five tips for a good night's sleep.", "Give me ten tips for a good night's sleep."),
        ("What is the capital city of France?", "What's the capital city of France?"),
    ],
    "de": [
        ("Nenne drei Grundfarben.", "Nenne bitte drei Grundfarben."),
        (
            "Schreibe ein kurzes Gedicht über das Meer im Winter.",
            "Schreibe ein kurzes Gedicht über das Meer im Sommer.",
        ),
        ("Gib mir fünf Tipps für einen guten Schlaf.", "Gib mir zehn Tipps für einen guten Schlaf."),
        ("Was ist die Hauptstadt von Frankreich?", "Was ist denn die Hauptstadt von Frankreich?"),
    ],
    "fr": [
        ("Cite trois couleurs primaires.", "Cite-moi trois couleurs primaires."),
        ("Écris un court poème sur la mer en hiver.", "Écris un court poème sur la mer en été."),
        ("Donne-moi cinq conseils pour bien dormir la nuit.", "Donne-moi dix conseils pour bien dormir la nuit."),
        ("Quelle est la capitale de la France ?", "Quelle est donc la capitale de la France ?"),
    ],
    "es": [
        ("Nombra tres colores primarios.", "Por favor, nombra tres colores primarios."),
        ("Escribe un poema corto sobre el mar en invierno.", "Escribe un poema corto sobre el mar en verano."),
        ("Dame cinco consejos para dormir bien por la noche.", "Dame diez consejos para dormir bien por la noche."),
        ("¿Cuál es la capital de Francia?", "¿Cuál es la ciudad capital de Francia?"),
    ],
    "ru": [
        ("Назови три основных цвета.", "Назови, пожалуйста, три основных цвета."),
        ("Напиши короткое стихотворение о море зимой.", "Напиши короткое стихотворение о море летом."),
        ("Дай мне пять советов для хорошего сна.", "Дай мне десять советов для хорошего сна."),
        ("Какой город является столицей Франции?", "Какой же город является столицей Франции?"),
    ],
    "ar": [
        ("اذكر ثلاثة ألوان أساسية.", "من فضلك اذكر ثلاثة ألوان أساسية."),
        ("اكتب قصيدة قصيرة عن البحر في الشتاء.", "اكتب قصيدة قصيرة عن البحر في الصيف."),
        ("أعطني خمس نصائح لنوم جيد في الليل.", "أعطني عشر نصائح لنوم جيد في الليل."),
        ("ما هي عاصمة فرنسا؟", "ما هي مدينة عاصمة فرنسا؟"),
    ],
    "hi": [
        ("तीन प्राथमिक रंगों के नाम बताइए।", "कृपया तीन प्राथमिक रंगों के नाम बताइए।"),
        ("सर्दियों में समुद्र पर एक छोटी कविता लिखिए।", "गर्मियों में समुद्र पर एक छोटी कविता लिखिए।"),
        ("रात में अच्छी नींद के लिए मुझे पाँच सुझाव दीजिए।", "रात में अच्छी नींद के लिए मुझे दस सुझाव दीजिए।"),
        ("फ्रांस की राजधानी क्या है?", "फ्रांस देश की राजधानी क्या है?"),
    ],
    "ko": [
        ("삼원색의 이름을 말해 주세요.", "삼원색의 이름을 모두 말해 주세요."),
        ("겨울 바다에 대한 짧은 시를 써 주세요.", "여름 바다에 대한 짧은 시를 써 주세요."),
        ("밤에 잠을 잘 자는 방법을 다섯 가지 알려 주세요.", "밤에 잠을 잘 자는 방법을 열 가지 알려 주세요."),
        ("프랑스의 수도는 어디인가요?", "프랑스의 수도는 어디입니까?"),
    ],
    "zh": [
        ("说出三种原色的名称。", "请说出三种原色的名称。"),
        ("写一首关于冬天大海的短诗。", "写一首关于夏天大海的短诗。"),
        ("给我五个晚上睡好觉的建议。", "给我十个晚上睡好觉的建议。"),
        ("法国的首都是哪里？", "法国的首都是哪座城市？"),
    ],
    "ja": [
        ("三原色の名前を挙げてください。", "三原色の名前をすべて挙げてください。"),
        ("冬の海についての短い詩を書いてください。", "夏の海についての短い詩を書いてください。"),
        ("夜ぐっすり眠るためのコツを五つ教えてください。", "夜ぐっすり眠るためのコツを十個教えてください。"),
        ("フランスの首都はどこですか？", "フランスの首都はどこでしょうか？"),
    ],
    "th": [
        ("บอกชื่อแม่สีสามสี", "ช่วยบอกชื่อแม่สีสามสีหน่อย"),
        ("เขียนบทกวีสั้น ๆ เกี่ยวกับทะเลในฤดูหนาว", "เขียนบทกวีสั้น ๆ เกี่ยวกับทะเลในฤดูร้อน"),
        ("ขอเคล็ดลับห้าข้อเพื่อการนอนหลับที่ดีในตอนกลางคืน", "ขอเคล็ดลับสิบข้อเพื่อการนอนหลับที่ดีในตอนกลางคืน"),
        ("เมืองหลวงของฝรั่งเศสคือเมืองอะไร", "เมืองหลวงของประเทศฝรั่งเศสคือเมืองอะไร"),
    ],
    "vi": [
        ("Kể tên ba màu cơ bản.", "Hãy kể tên ba màu cơ bản."),
        ("Viết một bài thơ ngắn về biển vào mùa đông.", "Viết một bài thơ ngắn về biển vào mùa hè."),
        ("Cho tôi năm lời khuyên để ngủ ngon vào ban đêm.", "Cho tôi mười lời khuyên để ngủ ngon vào ban đêm."),
        ("Thủ đô của Pháp là gì?", "Thủ đô của nước Pháp là gì?"),
    ],
}
UNLIKE = {
    "en": [
        ("What is AI? Explain it so that a child understands.", "Write a short poem about AI."),
        (
            "Summarise how the population of Seoul changed in 2024.",
            "List the medals that France won at the 2024 Olympics.",
        ),
        ("Write a Python function that sorts a list.", "Why is Python easy to learn for beginners?"),
        ("Please explain how photosynthesis works.", "Please explain how inflation comes about."),
        ("Write an email to my boss asking for a day off.", "Write a recipe for tomato soup for four people."),
        ("Write a poem about the sea.", "Write a song about the moon."),
        ("Translate into French: I like tea.", "Translate into German: I hate rain."),
        ("List three rivers in Africa.", "List five lakes in Europe."),
    ],
    "de": [
        ("Was ist KI? Erkläre es so, dass ein Kind es versteht.", "Schreibe ein kurzes Gedicht über KI."),
        (
            "Fasse zusammen, wie sich 2024 die Einwohnerzahl von Seoul verändert hat.",
            "Nenne die Medaillen, die Frankreich 2024 bei Olympia gewonnen hat.",
        ),
        ("Schreibe eine Python-Funktion, die eine Liste sortiert.", "Warum ist Python für Anfänger leicht zu lernen?"),
        ("Erkläre bitte, wie Photosynthese funktioniert.", "Erkläre bitte, wie Inflation entsteht."),
        (
            "Schreibe eine E-Mail an meine Chefin, in der ich um einen freien Tag bitte.",
            "Schreibe ein Rezept für Tomatensuppe für vier Personen.",
        ),
    ],
    "fr": [
        ("Qu'est-ce que l'IA ? Explique-le à un enfant.", "Écris un court poème sur l'IA."),
        (
            "Résume l'évolution de la population de Séoul en 2024.",
            "Cite les médailles que la France a gagnées aux Jeux de 2024.",
        ),
        (
            "Écris une fonction Python qui trie une liste.",
            "Pourquoi Python est-il facile à apprendre pour les débutants ?",
        ),
        (
            "Explique, s'il te plaît, comment fonctionne la photosynthèse.",
            "Explique, s'il te plaît, d'où vient l'inflation.",
        ),
        (
            "Écris un courriel à ma cheffe pour demander un jour de congé.",
            "Écris une recette de soupe à la tomate pour quatre personnes.",
        ),
    ],
    "es": [
        ("¿Qué es la IA? Explícalo para que lo entienda un niño.", "Escribe un poema corto sobre la IA."),
        (
            "Resume cómo cambió la población de Seúl en 2024.",
            "Enumera las medallas que ganó Francia en los Juegos de 2024.",
        ),
        (
            "Escribe una función de Python que ordene una lista.",
            "¿Por qué Python es fácil de aprender para principiantes?",
        ),
        ("Por favor, explica cómo funciona la fotosíntesis.", "Por favor, explica de dónde viene la inflación."),
        (
            "Escribe un correo a mi jefa para pedir un día libre.",
            "Escribe una receta de sopa de tomate para cuatro personas.",
        ),
    ],
    "ru": [
        ("Что такое AI? Объясни так, чтобы понял ребёнок.", "Напиши короткое стихотворение про AI."),
        (
            "Расскажи, как изменилось население Сеула в 2024 году.",
            "Перечисли медали Франции на Олимпиаде в 2024 году.",
        ),
        ("Напиши на Python функцию, которая сортирует список.", "Почему Python легко учить новичкам?"),
        ("Объясни, пожалуйста, как происходит фотосинтез.", "Объясни, пожалуйста, откуда берётся инфляция."),
        ("Напиши письмо начальнику с просьбой о выходном.", "Напиши рецепт томатного супа на четверых."),
    ],
    "ar": [
        ("ما هو AI؟ اشرحه بحيث يفهمه طفل.", "اكتب قصيدة قصيرة عن AI."),
        ("لخّص كيف تغيّر عدد سكان سيول في عام 2024.", "اذكر الميداليات التي فازت بها فرنسا في أولمبياد 2024."),
        ("اكتب دالة بلغة Python لترتيب قائمة.", "لماذا تُعدّ Python لغة سهلة للمبتدئين؟"),
        ("من فضلك اشرح كيف يعمل التمثيل الضوئي.", "من فضلك اشرح كيف ينشأ التضخم."),
        ("اكتب رسالة إلى مديري أطلب فيها يوم إجازة.", "اكتب وصفة لحساء الطماطم لأربعة أشخاص."),
    ],
    "hi": [
        ("AI क्या है? ऐसे समझाइए कि बच्चा भी समझ जाए।", "AI पर एक छोटी कविता लिखिए।"),
        ("2024 में सियोल की जनसंख्या कैसे बदली, संक्षेप में बताइए।", "2024 ओलंपिक में फ्रांस ने जो पदक जीते उनकी सूची बनाइए।"),
        ("सूची को क्रम में लगाने वाला Python फ़ंक्शन लिखिए।", "Python शुरुआती लोगों के लिए आसान क्यों है?"),
        ("कृपया समझाइए कि प्रकाश संश्लेषण कैसे होता है।", "कृपया समझाइए कि महँगाई कैसे बढ़ती है।"),
        ("छुट्टी माँगने के लिए मेरे बॉस को एक ईमेल लिखिए।", "चार लोगों के लिए टमाटर सूप की विधि लिखिए।"),
        ("फ्रेंच में अनुवाद कीजिए: मुझे चाय पसंद है।", "जर्मन में अनुवाद कीजिए: मुझे बारिश नापसंद है।"),
        ("अफ्रीका की तीन नदियों के नाम बताइए।", "यूरोप की पाँच झीलों के नाम बताइए।"),
    ],
    "ko": [
        ("AI가 무엇인지 초등학생도 이해할 수 있게 설명해 주세요.", "AI를 주제로 짧은 시를 써 주세요."),
        ("2024년 서울의 인구 변화를 요약해 주세요.", "2024년 올림픽에서 한국이 딴 메달을 알려 주세요."),
        ("Python으로 피보나치 수열을 구하는 함수를 작성해 주세요.", "Python이 왜 느린지 초등학생에게 설명해 주세요."),
        ("광합성이 어떻게 일어나는지 설명해 주세요.", "인플레이션이 왜 생기는지 설명해 주세요."),
        ("상사에게 하루 휴가를 요청하는 이메일을 써 주세요.", "네 명이 먹을 토마토 수프 요리법을 써 주세요."),
        ("바다에 대한 시를 써 주세요.", "달에 대한 노래를 써 주세요."),
        ("프랑스어로 번역해 주세요: 저는 차를 좋아합니다.", "독일어로 번역해 주세요: 저는 비를 싫어합니다."),
        ("아프리카의 강 세 개를 나열해 주세요.", "유럽의 호수 다섯 개를 나열해 주세요."),
    ],
    "zh": [
        ("什么是AI？请用小孩能听懂的话解释。", "以AI为主题写一首短诗。"),
        ("概括2024年首尔的人口变化。", "列出法国在2024年奥运会上获得的奖牌。"),
        ("用Python写一个排序函数。", "Python的装饰器是什么？请举三个例子。"),
        ("请解释光合作用是怎样进行的。", "请解释通货膨胀是怎样产生的。"),
        ("给我的老板写一封请假一天的邮件。", "写一份四人份番茄汤的食谱。"),
        ("写一首关于大海的诗。", "写一首关于月亮的歌。"),
        ("翻译成法语：我喜欢茶。", "翻译成德语：我讨厌雨。"),
        ("列出非洲的三条河流。", "列出欧洲的五个湖泊。"),
    ],
    "ja": [
        ("AIとは何か、小学生にも分かるように説明してください。", "AIを題材にした短い詩を書いてください。"),
        (
            "2024年のソウルの人口の変化を要約してください。",
            "2024年のオリンピックで日本が取ったメダルを挙げてください。",
        ),
        ("Pythonでリストを並べ替える関数を書いてください。", "Pythonが初心者にとって学びやすいのはなぜですか。"),
        ("光合成の仕組みを説明してください。", "インフレが起こる理由を説明してください。"),
        ("上司に一日の休みをお願いするメールを書いてください。", "四人分のトマトスープのレシピを書いてください。"),
        ("海についての詩を書いてください。", "月についての歌を書いてください。"),
        ("フランス語に訳してください：お茶が好きです。", "ドイツ語に訳してください：雨が嫌いです。"),
        ("アフリカの川を三つ挙げてください。", "ヨーロッパの湖を五つ挙げてください。"),
    ],
    "th": [
        ("AI คืออะไร อธิบายให้เด็กเข้าใจ", "เขียนบทกวีสั้น ๆ เกี่ยวกับ AI"),
        ("สรุปการเปลี่ยนแปลงของประชากรกรุงโซลในปี 2024", "บอกเหรียญที่ฝรั่งเศสได้ในโอลิมปิกปี 2024"),
        ("เขียนฟังก์ชัน Python เพื่อเรียงลำดับรายการ", "ทำไม Python จึงเรียนง่ายสำหรับผู้เริ่มต้น"),
        ("ช่วยอธิบายว่าการสังเคราะห์ด้วยแสงเกิดขึ้นได้อย่างไร", "ช่วยอธิบายว่าเงินเฟ้อเกิดขึ้นได้อย่างไร"),
        ("เขียนอีเมลถึงหัวหน้าเพื่อขอลาหยุดหนึ่งวัน", "เขียนสูตรซุปมะเขือเทศสำหรับสี่คน"),
        ("แปลเป็นภาษาฝรั่งเศส: ฉันชอบชา", "แปลเป็นภาษาเยอรมัน: ฉันเกลียดฝน"),
        ("บอกชื่อแม่น้ำสามสายในแอฟริกา", "บอกชื่อทะเลสาบห้าแห่งในยุโรป"),
    ],
    "vi": [
        ("AI là gì? Hãy giải thích cho trẻ em hiểu.", "Viết một bài thơ ngắn về AI."),
        ("Tóm tắt sự thay đổi dân số của Seoul năm 2024.", "Liệt kê các huy chương Pháp giành được ở Olympic 2024."),
        ("Viết một hàm Python để sắp xếp danh sách.", "Vì sao Python dễ học đối với người mới?"),
        ("Hãy giải thích quang hợp diễn ra như thế nào.", "Hãy giải thích vì sao có lạm phát."),
        ("Viết email cho sếp để xin nghỉ một ngày.", "Viết công thức nấu súp cà chua cho bốn người."),
    ],
}
