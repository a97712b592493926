"""What instructions ask for: the verb that opens them and the noun it acts on, as in Self-Instruct's figure.

Self-Instruct (arXiv 2212.10560) parses each instruction; here are word lists and rules instead, for English alone,
which find nothing where they aren't sure. Questions count by the word that they open with. Of its 175 seed tasks, read
one by one, they find an opening in 172, of which 4 aren't the one that a reader would name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_VERBS = _listed(
    """
    act add adjust advise analyze analyse annotate answer apply argue arrange ask assess assign assume brainstorm build
    calculate categorize change characterize chart check choose cite clarify classify code combine comment compare
    compile complete compose compute conduct construct consider continue contrast convert convince correct count craft
    create critique debate debug decide deduce define demonstrate derive describe design detail detect determine
    develop devise diagnose differentiate discuss distinguish divide draft draw edit elaborate eliminate estimate
    evaluate examine expand explain explore express extend extract factor fill find fix form format formulate generate
    give group guess highlight identify illustrate imagine implement improve include infer insert integrate interpret
    introduce invent investigate join judge justify label link list locate make map match measure mention modify
    multiply name narrate order organize outline output paraphrase parse perform pick plan plot predict prepare present
    prioritize produce program proofread propose prove provide punctuate pretend rank rate read rearrange recite
    recommend reduce refactor reformat rephrase replace reply report reorder research resolve respond restate return
    reverse review revise rewrite say search select sequence share shorten show simplify simulate sketch solve sort
    specify speculate split state structure study substitute subtract suggest summarise summarize supply support
    suppose take tag talk teach tell test think track transcribe transform translate turn unscramble update use
    validate verify visualize write
    """
)
_PHRASES = ("come up with", "fill in", "find out", "make up", "turn down", "write down", "work out", "figure out",
            "set up", "point out", "break down", "think of", "look up", "act as", "fill out", "write out", "list out",
            "talk about", "respond to", "reply to", "imagine that")  # fmt: skip
_QUESTIONS = _listed("what why how when where who which whose whom is are do does did can could should would will")
_LEADS = re.compile(
    r"^(?:(?:please|kindly|now|then|next|first|also|and|just|hey|hi|hello|so|ok|okay|you are asked to|try to|help me"
    r"(?: to)?|(?:can|could|would|will) you(?: please)?|i(?: would|'d)? (?:want|need|like) (?:you )?to|let's"
    r"|your (?:task|job|goal) is to|you (?:need|have) to|you (?:should|must|will))\s+)+"
)
_CLAUSE = re.compile(r"[.!?;:,\n()\u2013\u2014]+|\s-\s")
_WORD = re.compile(r"[^\W\d_][\w'-]*|\d+")
_DETERMINERS = _listed(
    "a an the this that these those my your his her its our their some any all each every no another"
)
_PRONOUNS = _listed("me us him them it you i he she they everything something anything someone anyone")
_ENDS = _listed(
    """
    about above according across after against along among around as at based because before behind below beneath
    beside between beyond but by can could describing during explaining for from given has have how if in include
    including inside into is are was were like near of off on onto out outside over per regarding should since so
    than that through to toward towards under until up upon using via what when where whether which while who whom
    whose why will with within without would containing
    """
)
_FOREIGN = _listed(
    """
    auf aus bei das dem den der des ein eine einem einen einer im ist mit nach und von zu zum zur au aux avec ces
    cette dans du elle en est et la le les leur pour que qui sont sur un une con de del el las los mas o para por se
    su sus una y al che da di e gli il nel uma um na os ou
    """
)  # without those that are English words, too: die, no, per
_SECOND_ENDS = {"and", "or", "that"}  # which end a phrase, but can't begin one that isn't there yet
_NOT_ADVERBS = _listed("family reply supply assembly anomaly monopoly italy july bully belly ally fly")
_VERBS_TOLD, _NOUNS_TOLD = 20, 4  # as many as Self-Instruct's figure shows
_CLAUSES = 6  # in which a verb is looked for
_LOOKED_AT = 1_000  # characters of a text


@dataclass(frozen=True)
class Opening:
    """What some instructions open with."""

    verb: str
    """A verb in its base form, or the word that opens a question."""
    noun: str
    """What it acts on; "" for all nouns together, and those without one."""
    count: int


@dataclass(frozen=True)
class Openings:
    """What the instructions open with."""

    texts: int
    """Those that were looked at."""
    found: int
    """Those in which a verb, or a question's first word, was found."""
    pairs: int
    """Different pairs of a verb and a noun, none of them counted here without the noun."""
    told: tuple[Opening, ...]
    """The 20 most frequent verbs, each followed by its 4 most frequent nouns."""


@dataclass
class OpeningCounts:
    """What the texts seen so far open with."""

    texts: int = 0
    verbs: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def see(self, texts: Iterable[str]) -> None:
        """Count texts that aren't empty."""
        for text in texts:
            self.texts += 1
            verb, noun = opening(text)
            if verb:
                self.verbs[verb] += 1
            if noun:
                self.pairs[verb, noun] += 1

    def result(self) -> Openings:
        """Return the most frequent ones."""
        nouns: dict[str, Counter[str]] = {}
        for (verb, noun), count in self.pairs.items():
            nouns.setdefault(verb, Counter())[noun] = count
        told = []
        for verb, count in _most(self.verbs, _VERBS_TOLD):
            told.append(Opening(verb, "", count))
            told += [Opening(verb, noun, times) for noun, times in _most(nouns.get(verb, Counter()), _NOUNS_TOLD)]
        return Openings(self.texts, self.verbs.total(), len(self.pairs), tuple(told))


def opening(text: str) -> tuple[str, str]:
    """Return the verb that opens an English instruction and the noun it acts on, each "" if it isn't found.

    >>> opening("Please write me a short story about bees.")
    ('write', 'story')
    >>> opening("Given the facts, explain why it rains."), opening("Why does it rain?"), opening("Sag es auf Deutsch.")
    (('explain', ''), ('why', ''), ('', ''))
    """
    question = ""
    for clause in _clauses(text):
        words = _WORD.findall(clause)
        if _is_foreign(words):
            continue
        phrase = next((phrase for phrase in _PHRASES if clause.startswith(f"{phrase} ")), "")
        if phrase:
            return phrase, _noun(words[len(phrase.split()) :])
        first = words[0] if words else ""
        if first in _VERBS:
            return first, _noun(words[1:])
        question = question or (first if first in _QUESTIONS else "")
    return question, ""


def _clauses(text: str) -> list[str]:
    """Return the first clauses of a text, without what is said before the matter itself."""
    parts = _CLAUSE.split(text[:_LOOKED_AT].lower().replace("’", "'"))
    clauses = (_LEADS.sub("", f"{part.strip()} ", count=1).strip() for part in parts)
    return [clause for clause in clauses if clause][:_CLAUSES]


def _is_foreign(words: Sequence[str]) -> bool:
    """Return whether a clause is of another language: by a letter that English has not, or by two small words."""
    return not "".join(words).isascii() or sum(word in _FOREIGN for word in words) > 1


def _noun(words: Sequence[str]) -> str:
    """Return the last word of the phrase that follows a verb, up to a word that begins another one."""
    phrase: list[str] = []
    before = ""
    for word in words:
        # right after an article, "given" and the like are adjectives
        ends = word in _ENDS and before not in _DETERMINERS
        if ends or (before and word in _SECOND_ENDS) or (phrase and word in _DETERMINERS):
            break
        if word not in _DETERMINERS and word not in _PRONOUNS:
            phrase.append(word)
        before = word
    while phrase and phrase[-1].endswith("ly") and phrase[-1] not in _NOT_ADVERBS:
        phrase.pop()
    return phrase[-1] if phrase and not phrase[-1].isdecimal() else ""


def _most(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """Return the most frequent ones; of equal ones the first by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]
