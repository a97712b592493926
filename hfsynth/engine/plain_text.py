"""Row text that stays text: what looks like a special token in a message is read as its characters.

A tokenizer finds its added tokens anywhere in a text, so that a row's `<|im_end|>` would end its turn, and what
follows could open one of the system. Only those that the chat template wrote may be found.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hfsynth.errors import ChatTemplateError
from hfsynth.llm import Message

Render = Callable[[tuple[Message, ...]], str]
_PRIVATE = range(0xE000, 0xF8FF)  # Unicode's characters for private use, which no template looks for
_ANCHORS = ("", "\n", "=")


@dataclass(frozen=True)
class PlainText:
    """Turns prompts into tokens so that the contents of messages stay text.

    A prompt whose messages have no added token's text is tokenized as it is. In any other, each such text is cut in
    two, and both sides are tokenized apart.

    Args:
        tokenizer: Of transformers, fast or slow.
        name: The model, for error messages.
    """

    tokenizer: Any
    name: str

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text with those of a template in it."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def of_text(self, text: str) -> list[int]:
        """Return the tokens of a text that has none of a template's."""
        tokens = self.tokens(text)
        if not self.is_marked(text) or not self._added(tokens):
            return tokens
        apart = self._joined(list(_halves(self._pattern, text)), [])
        if apart is None:
            raise ChatTemplateError(self._refusal(self._added(tokens)[0]))
        return apart

    def of_prompt(self, prompt: str, messages: Sequence[Message], render: Render) -> list[int]:
        """Return the tokens of a prompt.

        Args:
            prompt: Its text.
            messages: What it was rendered from.
            render: How: messages → text.

        Raises:
            ChatTemplateError: If the template changes a content that has an added token's text, so that its place in
                the prompt can't be told; or the tokenizer finds such a token even in a text that is cut in two.
        """
        if not any(self.is_marked(message["content"]) for message in messages):
            return self.tokens(prompt)
        free = _unused("".join(message["content"] for message in messages))
        masked, _ = self._masked(messages, free, self._pattern)
        of_template = self._added(self.tokens(render(masked)))
        tokens = self.tokens(prompt)
        surplus = _surplus(self._added(tokens), of_template)
        if not surplus:  # the template left out what the contents have, as it does with thoughts
            return tokens
        texts = [text for text, token in self._markers.items() if token in surplus]
        for pattern in (re.compile("|".join(map(re.escape, texts))), self._pattern):
            masked, found = self._masked(messages, free, pattern)
            rendered = render(masked)
            if _restored(rendered, found, free) == prompt:
                apart = self._joined(list(_cut(rendered, found, free)), of_template)
                if apart is not None:
                    return apart
        raise ChatTemplateError(self._refusal(surplus[0]))

    def is_marked(self, text: str) -> bool:
        """Whether a text has an added token's text."""
        return self._anywhere is not None and self._anywhere.search(text) is not None

    @cached_property
    def _markers(self) -> dict[str, int]:
        """The added tokens that are no words or white space → their ids."""
        added = self.tokenizer.added_tokens_decoder.items()
        found = {one.content: token for token, one in added if one.special or re.search(r"[^\w\s]", one.content)}
        return {text: token for text, token in found.items() if text.strip()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self._markers, key=len, reverse=True))), re.IGNORECASE)

    @cached_property
    def _anywhere(self) -> re.Pattern[str] | None:
        return self._pattern if self._markers else None

    def _added(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token in self._ids]

    @cached_property
    def _ids(self) -> frozenset[int]:
        """The added tokens' ids, but for that of unknown characters where the tokenizer has such: they are text."""
        ids = frozenset(self._markers.values())
        return ids - ({self.tokenizer.unk_token_id} & set(self.tokens(chr(_PRIVATE[0]))))

    def _masked(
        self, messages: Sequence[Message], free: tuple[str, str], pattern: re.Pattern[str]
    ) -> tuple[tuple[Message, ...], list[str]]:
        """Return messages with a sign in the place of each added token's text, and these texts in order."""
        found: list[str] = []

        def mask(match: re.Match[str]) -> str:
            found.append(match.group())
            return f"{free[0]}{len(found) - 1}{free[1]}"

        masked: list[Message] = [
            {"role": message["role"], "content": pattern.sub(mask, message["content"])} for message in messages
        ]
        return tuple(masked), found

    def _refusal(self, token: int) -> str:
        text = next(text for text, number in self._markers.items() if number == token)
        return (
            f"a message has the text of the special token {text!r}, which {self.name} would not read as text: its "
            "chat template changes the message, or its tokenizer finds it in halves, too; take it out of the row."
        )

    def _joined(self, pieces: Sequence[str], expected: Sequence[int]) -> list[int] | None:
        """Tokenize pieces apart, so that they read as one text where the tokenizer can do that.

        Some tokenizers put a space before whatever they are given: there, a piece is tokenized after an anchor.

        Returns:
            None where other added tokens are found than those expected.
        """
        ways = (self._after(anchor, pieces) for anchor in _ANCHORS)
        safe = [tokens for tokens in ways if tokens is not None and self._added(tokens) == list(expected)]
        text = "".join(pieces)
        return next((tokens for tokens in safe if self._reads(tokens, text)), safe[0] if safe else None)

    def _after(self, anchor: str, pieces: Sequence[str]) -> list[int] | None:
        before = self.tokens(anchor) if anchor else []
        tokens = self.tokens(pieces[0])
        for piece in pieces[1:]:
            made = self.tokens(anchor + piece)
            if made[: len(before)] != before:
                return None
            tokens += made[len(before) :]
        return tokens

    def _reads(self, tokens: Sequence[int], text: str) -> bool:
        read = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return bool(read.lstrip() == text.lstrip())


def _unused(text: str) -> tuple[str, str]:
    """Return two characters that a text doesn't have."""
    unused = (chr(code) for code in _PRIVATE if chr(code) not in text)
    return next(unused), next(unused)


def _surplus(tokens: Sequence[int], expected: Sequence[int]) -> list[int]:
    """Return the tokens that are there more often than expected, each once; all, where the order differs alone."""
    more = [token for token in dict.fromkeys(tokens) if tokens.count(token) > expected.count(token)]
    return more or (list(dict.fromkeys(tokens)) if list(tokens) != list(expected) else [])


def _signs(free: tuple[str, str]) -> re.Pattern[str]:
    return re.compile(f"{free[0]}([0-9]+){free[1]}")


def _restored(rendered: str, found: Sequence[str], free: tuple[str, str]) -> str:
    return _signs(free).sub(lambda sign: found[int(sign[1])], rendered)


def _cut(rendered: str, found: Sequence[str], free: tuple[str, str]) -> Iterator[str]:
    """Return a text in pieces, with both halves of each found text at the ends of two of them."""
    start = ""
    parts = _signs(free).split(rendered)
    for before, number in zip(parts[::2], parts[1::2], strict=False):
        text = found[int(number)]
        yield start + before + text[: len(text) // 2]
        start = text[len(text) // 2 :]
    yield start + parts[-1]


def _halves(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    free = _unused(text)
    found = pattern.findall(text)
    numbers = iter(range(len(found)))
    yield from _cut(pattern.sub(lambda _: f"{free[0]}{next(numbers)}{free[1]}", text), found, free)
