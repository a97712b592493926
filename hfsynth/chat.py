"""From a conversation to the text that a model reads before it speaks, by the model's own chat template.

Before an answer, that is the template rendered with its generation prompt. Before a user's turn (Magpie, arXiv
2406.08464) it is what the template puts before a user's text: the conversation is rendered with a placeholder as the
next user's text, and cut where the placeholder begins. No table of models is needed, and turn k reads exactly what
the template makes of the turns before it. What stands before an answer that is there already, to be scored, is found
in the same way.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from hfsynth.errors import ChatTemplateError
from hfsynth.llm import Message, Role
from hfsynth.thinking import THINKING, ThinkingMarkers, derive_markers

Render = Callable[[list[dict[str, Any]], bool], str]
"""A chat template: (messages, add_generation_prompt) → text."""

_USER, _OTHER, _SYSTEM, _ANSWER = (
    "Placeholder-of-a-user",
    "another one's text",
    "Placeholder-system",
    "Placeholder-answer",
)

_ROLES = frozenset({"system", "user", "assistant"})
_UNCLOSED = re.compile(r"[<\[][^<>\[\]]*$")  # the beginning of a marker, at the end of a text


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template, and what it can say, found by trying it.

    Args:
        name: The model, for error messages.
        render: The template.
        bos_token: The tokenizer's token for the beginning of a text; "" if it has none.
        render_thinking: The template with its variables that switch thinking on, if it may have any.
    """

    name: str
    render: Render
    bos_token: str = ""
    render_thinking: Render | None = None

    def prompt(self, messages: Sequence[Message], role: Role = "assistant") -> str:
        """Return the text that a model reads before it speaks as `role` in a conversation.

        Raises:
            ChatTemplateError: If the template can't render these messages, or can't speak as that role.
        """
        self._check(messages, role)
        if role == "user":
            return self._before_user(messages)
        return self._rendered(messages, True) if messages else self.opening

    def before_answer(self, messages: Sequence[Message]) -> str:
        """Return what stands before an answer's text where a conversation is rendered with it.

        That is what `prompt` returns, but where the model thinks: a generation prompt may open the thinking, while
        before an answer without any stands whatever the template shows it with.

        Raises:
            ChatTemplateError: If the template can't render these messages, or an answer to them.
        """
        self._check(messages, "assistant")
        if not messages:
            return self.opening
        if self._history_fault:
            return self._rendered(messages, True)  # the template shows no answer
        cuts = self._cuts(messages, "assistant", [(_ANSWER, False), (_OTHER, False)])
        if len(cuts) != 1 or None in cuts:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't show an answer after {len(messages)} messages: "
                f"what stands before the answer's text depends on it: {sorted(map(str, cuts))}"
            )
        return str(cuts.pop())

    def conversation(self, messages: Sequence[Message]) -> str:
        """Return the text of a whole conversation, after which nobody is to speak.

        Raises:
            ChatTemplateError: If the template can't render it.
        """
        if fault := self.fault(messages, "assistant"):
            raise ChatTemplateError(fault)
        self._check_roles(messages)
        return self._rendered(messages, False)

    def fault(self, messages: Sequence[Message], role: Role) -> str:
        """Say what a conversation needs that the template doesn't have (a role, say), or "" if it has all."""
        roles = {message["role"] for message in messages}
        if role == "user" and self._user_fault:
            return f"the chat template of {self.name} can't speak as a user: {self._user_fault}"
        if "system" in roles and self._system_fault:
            return f"the chat template of {self.name} refuses a system role: {self._system_fault}"
        if "assistant" in roles and self._history_fault:
            return f"the chat template of {self.name} has no second turn: {self._history_fault}"
        return ""

    def _check_roles(self, messages: Sequence[Message]) -> None:
        """Check that the template writes turns of roles that not every template has: many leave them out silently."""
        for role in sorted({message["role"] for message in messages} - _ROLES):
            if not self._has_role(messages, role):
                raise ChatTemplateError(f"the chat template of {self.name} leaves out turns of the role {role!r}")

    def _has_role(self, messages: Sequence[Message], role: str) -> bool:
        """Whether the template writes the texts of a role's turns, in a conversation such as this."""
        turns: list[Message] = [
            {"role": one["role"], "content": _OTHER if one["role"] == role else one["content"]} for one in messages
        ]
        count = sum(one["role"] == role for one in messages)
        return self._rendered(turns, False).count(_OTHER) >= count

    @cached_property
    def opening(self) -> str:
        """What the template puts before any answer, whatever was said: its generation prompt, without thinking.

        The BOS token stands before it where the template begins with one.

        Raises:
            ChatTemplateError: If the template can't speak as a user, or show an answer.
        """
        asked = _user_turn(_USER)
        start, _, following = self.before_answer(asked).partition(_USER)
        ended = self._rendered(asked, False).partition(_USER)[2]
        turn = _common_beginning(following, ended)
        if turn != ended:  # an end of text stands there instead, whose marker may begin like the answer's
            turn = _UNCLOSED.sub("", turn)
        opening = following[len(turn) :]
        # some have one token for the beginning of a text and of a turn
        has_bos = bool(self.bos_token) and start.startswith(self.bos_token) and not opening.startswith(self.bos_token)
        return self.bos_token + opening if has_bos else opening

    @cached_property
    def after_user(self) -> str:
        """What the template puts between a user's text and the answer: where it begins, a user's turn has ended.

        Raises:
            ChatTemplateError: If the template can't speak as a user.
        """
        if fault := self.fault((), "user"):
            raise ChatTemplateError(fault)
        return self._rendered(_user_turn(_USER), True).partition(_USER)[2]

    @cached_property
    def user_end(self) -> str:
        """What shows that a user's turn has ended: what follows it whether it is answered next or was before.

        Raises:
            ChatTemplateError: If the template can't speak as a user.
        """
        answered: list[Message] = [*_user_turn(_USER), {"role": "assistant", "content": _ANSWER}, *_user_turn(_OTHER)]
        if self._history_fault:
            return self.after_user
        following = self._rendered(answered, True).partition(_USER)[2].partition(_ANSWER)[0]
        return _common_beginning(self.after_user, following)

    @cached_property
    def thinking(self) -> tuple[ThinkingMarkers, ...]:
        """How the model marks its thoughts: as the template renders them, and as models of other templates do."""
        renders = [self.render, self.render_thinking] if self.render_thinking else [self.render]
        derived = (derive_markers(partial(_attempt, render)) for render in renders)
        return (*next(filter(None, derived), ()), *THINKING)

    def _before_user(self, messages: Sequence[Message]) -> str:
        """Cut the rendered conversation where the next user's text begins.

        The cut must not depend on that text or on what follows it, or it would not be what the model sees later on.
        """
        cuts = self._cuts(messages, "user", [(_USER, True), (_USER, False), (_OTHER, True)])
        if len(cuts) != 1 or None in cuts:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't speak as a user after {len(messages)} messages: "
                f"what stands before the user's text depends on it: {sorted(map(str, cuts))}"
            )
        before = str(cuts.pop())
        if not before:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't speak as a user: nothing stands before a user's text"
            )
        return before

    def _check(self, messages: Sequence[Message], role: Role) -> None:
        if messages and messages[-1]["role"] == role:
            raise ChatTemplateError(f"the conversation's last turn is the {role}'s already: {messages[-1]}")
        if fault := self.fault(messages, role):
            raise ChatTemplateError(fault)
        self._check_roles(messages)

    def _cuts(self, messages: Sequence[Message], role: Role, ways: Sequence[tuple[str, bool]]) -> set[str | None]:
        """Return what stands before the text of a next turn, for each way (text, generation prompt) to render it."""
        cuts = set[str | None]()
        for text, generation_prompt in ways:
            turn: Message = {"role": role, "content": text}
            before, found, _ = self._rendered([*messages, turn], generation_prompt).rpartition(text)
            cuts.add(before if found else None)
        return cuts

    def _rendered(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        return self._try(messages, generation_prompt, self._wants_parts)

    def _try(self, messages: Sequence[Message], generation_prompt: bool, parts: bool) -> str:
        plain: list[dict[str, Any]] = [dict(message) for message in messages]
        for message in plain if parts else ():
            message["content"] = [{"type": "text", "text": message["content"]}]
        try:
            return self.render(plain, generation_prompt)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatTemplateError(f"the chat template of {self.name} refuses the conversation: {error}") from error

    def _fault(self, messages: Sequence[Message], parts: bool) -> str:
        """Why a template doesn't show every one of these messages once and in order; "" if it does."""
        try:
            text = self._try(messages, True, parts)
        except ChatTemplateError as error:
            return str(error.__cause__)
        for message in messages:
            if text.count(message["content"]) != 1:
                return f"it shows the {message['role']}'s text {text.count(message['content'])} times"
        places = [text.index(message["content"]) for message in messages]
        return "" if places == sorted(places) else "it shows the messages in another order"

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether contents must be lists of parts, as the templates of some vision-language models want them."""
        return bool(self._fault(_user_turn(_USER), False)) and not self._fault(_user_turn(_USER), True)

    @cached_property
    def _user_fault(self) -> str:
        return self._fault(_user_turn(_USER), self._wants_parts)

    @cached_property
    def _system_fault(self) -> str:
        return self._fault([{"role": "system", "content": _SYSTEM}, *_user_turn(_USER)], self._wants_parts)

    @cached_property
    def _history_fault(self) -> str:
        history: list[Message] = [*_user_turn(_USER), {"role": "assistant", "content": _ANSWER}, *_user_turn(_OTHER)]
        return self._fault(history, self._wants_parts)


def _attempt(render: Render, messages: list[dict[str, Any]], generation_prompt: bool) -> str | None:
    """Render messages as they are; None where the template refuses them."""
    try:
        return render(messages, generation_prompt)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None


def _common_beginning(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)


def _user_turn(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def turn_end(after: str, special_tokens: Collection[str]) -> tuple[tuple[str, ...], str]:
    r"""Say how a turn is seen to end, from what a template puts after it.

    Args:
        after: The text that shows that the turn has ended (`ChatTemplate.user_end`).
        special_tokens: The tokenizer's.

    Returns:
        The special tokens that end the turn, and the text that ends it where it begins with none ("" if it does).

    >>> turn_end("<|im_end|>\n<|im_start|>assistant\n", ["<|im_start|>", "<|im_end|>"])
    (('<|im_end|>', '<|im_start|>'), '')
    >>> turn_end(" [/INST]", ["</s>"])
    ((), '[/INST]')
    """
    places = sorted((after.index(token), token) for token in special_tokens if token and token in after)
    text = after[: places[0][0]] if places else after
    return tuple(token for _, token in places), next(iter(text.strip().splitlines()), "")
