"""Convert requests to token ids, and token ids to completions, with a model's chat template and tokenizer.

    ChatTokenizer     Request → RenderedRequest or RenderedChoices; Generated → Completion
    ChatTemplate      conversation → prompt for generating an answer or a user's turn, or for scoring an answer
    PlainText         text → token ids, in which row text never becomes a special token
    TokenizedRequest  decides when a completion ends: end tokens, stop texts across tokens, length
    TokenizedChoices  computes the scores of choices from the probabilities of their tokens

The prompt for an answer is the conversation rendered with the template's generation prompt. For a user's turn
(Magpie, arXiv 2406.08464), the conversation is rendered with a placeholder as the next user's text, and cut where the
placeholder begins. No list of models is needed, and the prompt of turn k equals the rendering of the turns before it.
This module doesn't import torch.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, takewhile
from typing import Any

from jinja2 import TemplateError

from hfsynth.errors import ChatTemplateError, GenerationError
from hfsynth.llm import Completion, FinishReason, Message, Request, Role, SamplingParams
from hfsynth.thinking_and_tool_calls import (
    SAMPLE_TOOLS,
    THINKING,
    ParsedAnswer,
    ThinkingMarkers,
    derive_markers,
    derive_response_template,
    parse_answer,
    split_thinking,
)

Render = Callable[[list[dict[str, Any]], bool], str]
"""A chat template: (messages, add_generation_prompt) → text."""
ToolRenders = Callable[[Sequence[Mapping[str, Any]]], Render]
"""Tools as JSON schemas → a chat template that renders them."""
RenderMessages = Callable[[tuple[Message, ...]], str]
"""A prompt as a function of its messages."""
Decode = Callable[[Sequence[int]], str]
"""Token ids → text with special tokens."""

# Variables that switch thinking on in chat templates; a template ignores those that it doesn't have.
_THINKING_ON = dict.fromkeys(("enable_thinking", "thinking", "preserve_thinking", "keep_thinking"), True)
_USER, _OTHER = "Placeholder-of-a-user", "another one's text"
_SYSTEM, _ANSWER = "Placeholder-system", "Placeholder-answer"
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""Exceptions of a chat template for messages that it can't render."""
_ROLES = frozenset({"system", "user", "assistant"})
_UNCLOSED = re.compile(r"[<\[][^<>\[\]]*$")  # the beginning of a marker, at the end of a text
_PRIVATE = range(0xE000, 0xF8FF)  # private use characters of Unicode, which no template has
_ANCHORS = ("", "\n", "=")
_TAIL = 8  # tokens that are decoded beyond the stop text's length, since it may begin within a token


class PromptTooLongError(ValueError):
    """Raised when a prompt leaves no room for a completion in the model's context."""


@dataclass(frozen=True, eq=False)
class TokenizedRequest:
    """A request for an engine: the prompt's token ids, the sampling, and the conditions that end the completion."""

    prompt_ids: list[int]
    sampling: SamplingParams
    seed: int
    max_new_tokens: int
    """`SamplingParams.max_new_tokens`, or the number of tokens left in the context, if lower."""
    end_tokens: frozenset[int]
    """Tokens that end the completion."""
    stop: tuple[str, ...]
    """Texts that end the completion."""

    def finish_reason(self, token_ids: Sequence[int], decode: Decode) -> FinishReason | None:
        """Return the finish reason if the last token ends the completion, else None.

        Args:
            token_ids: The tokens generated so far, at least one. Call this after every token.
            decode: Used to find stop texts.
        """
        if token_ids[-1] in self.end_tokens:
            return "stop"
        if self.stop:
            longest = max(len(stop.encode()) for stop in self.stop)  # a token may be one byte of a character
            tail = decode(token_ids[-longest - _TAIL :])
            if any(stop in tail for stop in self.stop):
                return "stop"
        return "length" if len(token_ids) >= self.max_new_tokens else None


NextRequest = Callable[[], TokenizedRequest | None]
"""Returns the next request for an engine, or None if none is waiting."""
Prefix = tuple[int, ...]
"""The first tokens of a choice; () for none."""


@dataclass(frozen=True, eq=False)
class TokenizedChoices:
    """Texts to score after one prompt, as token ids, and the prefix tree that they form.

        choices     [7, 8], [7, 9], [5]      end tokens {2}
        prefix      ()       (7,)    (5,)    (7, 8)   (7, 9)      first tokens of choices, after the prompt
        wanted      7, 5     8, 9    2       2        2           next tokens whose probabilities are needed

    An engine may evaluate each prefix once, however many choices share it.

    >>> tokens = TokenizedChoices([1], [[7, 8], [5]], frozenset({2}))
    >>> tokens.wanted
    {(): [7, 5], (7,): [8], (7, 8): [2], (5,): [2]}
    >>> tokens.scores({(): {7: -0.5, 5: -1.0}, (7,): {8: -0.25}, (7, 8): {2: -0.25}, (5,): {2: -2.0}})
    (-1.0, -3.0)
    """

    prompt_ids: Sequence[int]
    """At least one token."""
    choices: Sequence[Sequence[int]]
    """The tokens of each text."""
    end_tokens: frozenset[int]
    """Tokens that end a text; if empty, the end of a text is not scored."""

    @cached_property
    def token_ids(self) -> list[int]:
        """The prompt followed by all choices."""
        return [*self.prompt_ids, *chain.from_iterable(self.choices)]

    @cached_property
    def wanted(self) -> dict[Prefix, list[int]]:
        """Prefix → the next tokens whose probabilities are needed."""
        wanted: dict[Prefix, dict[int, None]] = {}
        for choice in map(tuple, self.choices):
            for place, token in enumerate(choice):
                wanted.setdefault(choice[:place], {})[token] = None
            if self.end_tokens:
                wanted.setdefault(choice, {}).update(dict.fromkeys(sorted(self.end_tokens)))
        return {prefix: list(tokens) for prefix, tokens in wanted.items()}

    def scores(self, found: Mapping[Prefix, Mapping[int, float]]) -> tuple[float, ...]:
        """Return each choice's score: the log-probability of its tokens and its end.

        Args:
            found: Prefix → wanted token → its log-probability.
        """
        return tuple(self._score(tuple(choice), found) for choice in self.choices)

    def _score(self, choice: Prefix, found: Mapping[Prefix, Mapping[int, float]]) -> float:
        own = math.fsum(found[choice[:place]][token] for place, token in enumerate(choice))
        ends = [found[choice][token] for token in sorted(self.end_tokens)]
        return own + (log_sum(ends) if ends else 0.0)


def log_sum(values: Sequence[float]) -> float:
    """Return the logarithm of a sum of probabilities from their logarithms (log-sum-exp).

    >>> round(log_sum([math.log(0.25), math.log(0.5)]), 6) == round(math.log(0.75), 6)
    True
    """
    largest = max(values)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


@dataclass(frozen=True, eq=False)
class RenderedRequest:
    """A request for a text, with its prompt as text and as token ids."""

    request: Request
    prompt: str
    tokens: TokenizedRequest


@dataclass(frozen=True, eq=False)
class RenderedChoices:
    """A request with choices, with its prompt as text, and prompt and choices as token ids."""

    request: Request
    prompt: str
    tokens: TokenizedChoices


@dataclass(frozen=True)
class Generated:
    """The tokens that an engine generated for a request, with the end token, and the finish reason."""

    token_ids: list[int]
    finish_reason: FinishReason
    error: str = ""
    """The error message if `finish_reason` is "error" or "refused"."""


@dataclass
class ChatTokenizer:
    """Converts requests to token ids, and generated token ids to completions, for every engine.

        rendered = chat.render(request)            # a Completion, if the request is refused
        generated = engine.generate(rendered.tokens)
        completion = chat.completion(rendered, generated)

    Args:
        tokenizer: A tokenizer of transformers, fast or slow.
        template: The chat template of the model.
        end_tokens: Tokens that end an answer.
        context: Maximum number of tokens of prompt and completion together; None for no limit.
    """

    tokenizer: Any
    template: "ChatTemplate"
    end_tokens: frozenset[int]
    context: int | None

    def check(self, requests: Sequence[Request]) -> None:
        """Check that the model can complete some request; if it can't, the rows are not at fault.

        Raises:
            ChatTemplateError: If every request needs something that the chat template lacks, such as a system role.
            GenerationError: If the last turn of every conversation is an answer already, as for a reward model.
        """
        faults = [self.template.fault(request.messages, request.role) for request in requests]
        if faults and all(faults):
            raise ChatTemplateError(faults[0])
        if requests and all(map(_is_answered, requests)):
            raise GenerationError(
                f"{self.template.name} writes texts or scores choices, but every request's conversation ends with an "
                "answer; to score whole conversations, use RewardModel(...) as the llm."
            )

    def prompt(self, request: Request) -> str:
        """Return the rendered text up to the next turn, or up to the choices.

        Raises:
            ChatTemplateError: If the chat template can't render it.
        """
        template = self.template.with_tools(request.tools)
        if request.choices and request.role == "assistant":
            return template.before_answer(request.messages)
        return template.prompt(request.messages, request.role)

    def render(self, request: Request) -> RenderedRequest | RenderedChoices | Completion:
        """Return a request as text and token ids, or a completion with the error of a refused request.

        A request is refused if the chat template can't render it, or its prompt leaves no room in the context.
        """
        try:
            prompt = self.prompt(request)
            if request.choices:
                return RenderedChoices(request, prompt, self.tokenize_choices(request, prompt))
            return RenderedRequest(request, prompt, self.tokenize(request, prompt))
        except (ChatTemplateError, PromptTooLongError) as error:
            return Completion(text="", finish_reason="refused", error=str(error))

    def tokenize(self, request: Request, prompt: str) -> TokenizedRequest:
        """Return a request as token ids.

        Args:
            request: A request without choices.
            prompt: Its rendered text.

        Raises:
            PromptTooLongError: If the prompt leaves no room for an answer.
            ChatTemplateError: If the prompt is empty.
        """
        ids = self._prompt_ids(request, prompt)
        limit = request.sampling.max_new_tokens
        if self.context is not None:
            if len(ids) >= self.context:
                raise PromptTooLongError(f"the prompt's {len(ids)} tokens fill the model's context of {self.context}")
            limit = min(limit, self.context - len(ids))
        ends, text = self._turn_ends(request)
        stop = request.sampling.stop + ((text,) if text else ())
        return TokenizedRequest(ids, request.sampling, request.seed, limit, ends, stop)

    def tokenize_choices(self, request: Request, prompt: str) -> TokenizedChoices:
        """Return a request's choices as token ids.

        Choices are tokenized separately from the prompt. So the prompt's tokens are the same for all choices, and an
        engine prefills them once. Spaces at the prompt's end are moved to the choices, since in most vocabularies a
        word and the space before it are one token. Some tokenizers add that space themselves.

        Args:
            request: A request with choices.
            prompt: Its rendered text.

        Raises:
            PromptTooLongError: If the prompt and a choice are longer than the context.
            ChatTemplateError: If the prompt is empty.
        """
        begun = prompt.rstrip(" ")
        ids, spaces = self._prompt_ids(request, begun), prompt[len(begun) :]
        choices = [self._choice_ids(ids, spaces, choice) for choice in request.choices]
        longest = max(map(len, choices))
        if self.context is not None and len(ids) + longest > self.context:
            raise PromptTooLongError(
                f"the prompt's {len(ids)} tokens and a choice's {longest} are more than the model's context of "
                f"{self.context}"
            )
        return TokenizedChoices(ids, choices, self._turn_ends(request)[0])

    def completion(self, rendered: RenderedRequest, generated: Generated) -> Completion:
        """Return generated tokens as a completion. Its text has no end tokens, stop texts, thinking or special tokens.

        Args:
            rendered: The request.
            generated: The tokens that an engine generated for it.
        """
        ids = generated.token_ids
        is_ended = bool(ids) and ids[-1] in rendered.tokens.end_tokens
        text = self.decode(ids[:-1] if is_ended else ids)
        return replace(
            self.completion_of_text(rendered, text, generated.finish_reason),
            completion_tokens=len(ids),
            written=self.decode(ids),
            error=generated.error,
        )

    def completion_of_text(self, rendered: RenderedRequest, text: str, finish_reason: FinishReason) -> Completion:
        """Return a generated text as a completion. Its text has no stop texts, thinking or special tokens.

        Args:
            rendered: The request.
            text: The generated text, with special tokens but without the end token.
            finish_reason: The finish reason.
        """
        if cuts := [text.index(stop) for stop in rendered.tokens.stop if stop in text]:
            text = text[: min(cuts)]
        parsed: ParsedAnswer | None = None
        error = ""
        if rendered.request.parse_tool_calls and finish_reason == "stop":
            parsed, error = self._parse_tool_calls(rendered, text)
        if parsed is None:
            thinking = None
            if rendered.request.role == "assistant":
                thinking, text = split_thinking(rendered.prompt, text, self.template.thinking)
            parsed = ParsedAnswer(text, (), thinking)
        return Completion(
            text=self._without_special(parsed.text),
            finish_reason=finish_reason,
            prompt_tokens=len(rendered.tokens.prompt_ids),
            thinking=parsed.thinking and self._without_special(parsed.thinking),
            tool_calls=parsed.calls,
            tool_call_error=error,
        )

    def scored(self, rendered: RenderedChoices, scores: tuple[float, ...]) -> Completion:
        """Return the scores of a request's choices as a completion. Its text is the choice with the highest score."""
        tokens = rendered.tokens
        return Completion(
            text=rendered.request.choices[scores.index(max(scores))],
            finish_reason="stop",
            prompt_tokens=len(tokens.token_ids),
            scores=scores,
            scored_tokens=tuple(len(choice) + bool(tokens.end_tokens) for choice in tokens.choices),
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, with special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _parse_tool_calls(self, rendered: RenderedRequest, text: str) -> tuple[ParsedAnswer | None, str]:
        """Parse an answer; (None, "") if it calls no tool, and (None, the reason) if it can't be parsed."""
        tools = rendered.request.tools
        try:
            if own := getattr(self.tokenizer, "response_template", None):
                return parse_answer(self.tokenizer, own, rendered.prompt, text, tools), ""
            if (derived := self._derived_response_template) is None:
                return None, (
                    f"the tokenizer of {self.template.name} has no response_template, and none can be derived from "
                    "its chat template"
                )
            thinking, answer = split_thinking(rendered.prompt, text, self.template.thinking)
            parsed = parse_answer(self.tokenizer, derived, "", answer, tools)
        except ValueError as error:
            return None, f"{error!s:.300}"
        return parsed and replace(parsed, thinking=thinking), ""

    @cached_property
    def _derived_response_template(self) -> Mapping[str, Any] | None:
        """The response template, derived from the chat template; None if it can't be derived."""
        if self.template.tool_renders is None:
            return None
        render = partial(_attempt, self.template.tool_renders(SAMPLE_TOOLS))
        return derive_response_template(self.tokenizer, render, self.template.thinking)

    def _prompt_ids(self, request: Request, prompt: str) -> list[int]:
        """Return the tokens of a request's prompt. Contents of messages become no special tokens.

        Raises:
            ChatTemplateError: If the prompt is empty, or a tool's schema has the text of a special token.
        """

        def render(messages: tuple[Message, ...]) -> str:
            rendered = self.prompt(replace(request, messages=messages))
            return rendered.rstrip(" ") if request.choices else rendered

        self._plain_text.check_tools(request.tools)
        ids = self._plain_text.of_prompt(prompt, request.messages, render)
        if not ids:
            raise ChatTemplateError("the chat template renders the conversation as an empty prompt")
        return ids

    def _choice_ids(self, prompt_ids: Sequence[int], spaces: str, choice: str) -> list[int]:
        """Return the tokens of a choice that follows a prompt and some spaces."""
        alone = self._plain_text.of_text(choice)
        if not spaces or self.decode([*prompt_ids[-1:], *alone]).endswith(spaces + choice):
            return alone
        return self._plain_text.of_text(spaces + choice)

    def _turn_ends(self, request: Request) -> tuple[frozenset[int], str]:
        """Return the tokens that end a request's turn, and a stop text if the template has no such tokens."""
        if request.role == "assistant":
            return self.end_tokens, ""
        special, text = turn_end(self.template.user_end, [token for token, _ in self._added_tokens])
        return self.end_tokens | set(self.tokenizer.convert_tokens_to_ids(list(special))), text

    @cached_property
    def _plain_text(self) -> "PlainText":
        return PlainText(self.tokenizer, self.template.name)

    def _without_special(self, text: str) -> str:
        special = "|".join(re.escape(token) for token, is_special in self._added_tokens if is_special)
        return re.sub(special, "", text).strip() if special else text.strip()

    @property
    def _added_tokens(self) -> list[tuple[str, bool]]:
        """(text, is_special) of each added token. Special ones are removed from completions."""
        return [(token.content, token.special) for token in self.tokenizer.added_tokens_decoder.values()]


def _is_answered(request: Request) -> bool:
    """Return whether the conversation already ends with the requested answer, as for a reward model."""
    last = request.messages[-1]["role"] if request.messages else ""
    return last == request.role == "assistant" and not request.choices


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template. Rendering short conversations shows which roles and turns it supports.

    Args:
        name: The model, for error messages.
        render: The template.
        bos_token: The tokenizer's BOS token; "" if it has none.
        render_thinking: The template with thinking switched on; None if it has no variables for that.
        tool_renders: Returns the template that renders some tools; None if it renders no tools.
    """

    name: str
    render: Render
    bos_token: str = ""
    render_thinking: Render | None = None
    tool_renders: ToolRenders | None = None

    @classmethod
    def of_tokenizer(cls, name: str, tokenizer: Any, variables: Mapping[str, Any]) -> "ChatTemplate":
        """Return a tokenizer's chat template.

        Args:
            name: The model, for error messages.
            tokenizer: A tokenizer of transformers that has a chat template.
            variables: The template's variables besides the messages.
        """
        return cls(
            name,
            partial(_render, tokenizer, dict(variables)),
            tokenizer.bos_token or "",
            partial(_render, tokenizer, {**_THINKING_ON, **variables}),
            lambda tools: partial(_render, tokenizer, {**variables, "tools": [dict(tool) for tool in tools]}),
        )

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> "ChatTemplate":
        """Return the template for conversations in which the model may call these tools.

        Raises:
            ChatTemplateError: If the template does not render one of the tools.
        """
        if not tools:
            return self
        key = json.dumps(tools, sort_keys=True, default=str)
        if key not in self._with_tools:
            self._with_tools[key] = self._of_tools(tools)
        return self._with_tools[key]

    def _of_tools(self, tools: Sequence[Mapping[str, Any]]) -> "ChatTemplate":
        render = self.tool_renders(tools) if self.tool_renders else self.render
        template = replace(self, render=render, tool_renders=None)
        names = [str((tool.get("function") or tool).get("name", "")) for tool in tools]
        rendered = template._rendered(_user_turn(_USER), True)
        if left_out := [name for name in names if name not in rendered]:
            raise ChatTemplateError(f"the chat template of {self.name} leaves out the tools {left_out}")
        return template

    @cached_property
    def _with_tools(self) -> "dict[str, ChatTemplate]":
        return {}

    def prompt(self, messages: Sequence[Message], role: Role = "assistant") -> str:
        """Return the prompt for the next turn of `role` in a conversation.

        Raises:
            ChatTemplateError: If the template can't render these messages, or can't render that role.
        """
        self._check(messages, role)
        if role == "user":
            return self._before_user(messages)
        return self._rendered(messages, True) if messages else self.generation_prompt

    def before_answer(self, messages: Sequence[Message]) -> str:
        """Return the text before an answer, cut from the conversation rendered with the answer.

        For a thinking model, `prompt` may return other text: the generation prompt may open the thinking block, which
        an answer without thinking doesn't have.

        Raises:
            ChatTemplateError: If the template can't render these messages, or an answer to them.
        """
        self._check(messages, "assistant")
        if not messages:
            return self.generation_prompt
        if self._history_fault:
            return self._rendered(messages, True)  # the template renders no answer
        cuts = self._cuts(messages, "assistant", [(_ANSWER, False), (_OTHER, False)])
        if len(cuts) != 1 or None in cuts:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't render an answer after {len(messages)} messages: "
                f"the text before the answer depends on the answer: {sorted(map(str, cuts))}"
            )
        return str(cuts.pop())

    def conversation(self, messages: Sequence[Message]) -> str:
        """Return the text of a complete conversation, without a generation prompt.

        Raises:
            ChatTemplateError: If the template can't render it.
        """
        if fault := self.fault(messages, "assistant"):
            raise ChatTemplateError(fault)
        self._check_roles(messages)
        return self._rendered(messages, False)

    def fault(self, messages: Sequence[Message], role: Role) -> str:
        """Return why the template can't render a conversation, such as a missing role; "" if it can."""
        roles = {message["role"] for message in messages}
        if role == "user" and self._user_fault:
            return f"the chat template of {self.name} can't render a user's turn: {self._user_fault}"
        if "system" in roles and self._system_fault:
            return f"the chat template of {self.name} refuses a system role: {self._system_fault}"
        if "assistant" in roles and self._history_fault:
            return f"the chat template of {self.name} has no second turn: {self._history_fault}"
        return ""

    def _check_roles(self, messages: Sequence[Message]) -> None:
        """Check that the template renders all tool calls and roles, since many templates omit some silently."""
        for role in sorted({message["role"] for message in messages} - _ROLES):
            if not self._has_role(messages, role):
                raise ChatTemplateError(f"the chat template of {self.name} leaves out turns of the role {role!r}")
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        names = [str((call.get("function") or call).get("name", "")) for call in calls]
        if names and (left_out := [name for name in names if name not in self._rendered(messages, False)]):
            raise ChatTemplateError(f"the chat template of {self.name} leaves out the calls of the tools {left_out}")

    def _has_role(self, messages: Sequence[Message], role: str) -> bool:
        """Return whether the template renders every turn of a role in a conversation."""
        turns: list[Message] = [{**one, "content": _OTHER} if one["role"] == role else one for one in messages]
        count = sum(one["role"] == role for one in messages)
        return self._rendered(turns, False).count(_OTHER) >= count

    @cached_property
    def generation_prompt(self) -> str:
        """The text that the template puts before any answer, without thinking.

        The text begins with the BOS token if the rendered conversation does.

        Raises:
            ChatTemplateError: If the template can't render a user's turn, or an answer.
        """
        question = _user_turn(_USER)
        start, _, following = self.before_answer(question).partition(_USER)
        ended = self._rendered(question, False).partition(_USER)[2]
        turn = _common_beginning(following, ended)
        if turn != ended:  # an end-of-text marker may begin with the same characters as the answer's marker
            turn = _UNCLOSED.sub("", turn)
        opening = following[len(turn) :]
        # in some templates, BOS also begins each turn
        has_bos = bool(self.bos_token) and start.startswith(self.bos_token) and not opening.startswith(self.bos_token)
        return self.bos_token + opening if has_bos else opening

    @cached_property
    def after_user(self) -> str:
        """The text that the template puts between a user's text and the answer.

        Raises:
            ChatTemplateError: If the template can't render a user's turn.
        """
        if fault := self.fault((), "user"):
            raise ChatTemplateError(fault)
        return self._rendered(_user_turn(_USER), True).partition(_USER)[2]

    @cached_property
    def user_end(self) -> str:
        """The text that follows every user's turn, both the last and earlier ones. Generating it ends the turn.

        Raises:
            ChatTemplateError: If the template can't render a user's turn.
        """
        answered: list[Message] = [*_user_turn(_USER), {"role": "assistant", "content": _ANSWER}, *_user_turn(_OTHER)]
        if self._history_fault:
            return self.after_user
        following = self._rendered(answered, True).partition(_USER)[2].partition(_ANSWER)[0]
        return _common_beginning(self.after_user, following)

    @cached_property
    def thinking(self) -> tuple[ThinkingMarkers, ...]:
        """Markers of the model's thinking: those of its template, followed by the common ones of other templates."""
        renders = [self.render, self.render_thinking] if self.render_thinking else [self.render]
        derived = (derive_markers(partial(_attempt, render)) for render in renders)
        return (*next(filter(None, derived), ()), *THINKING)

    def _before_user(self, messages: Sequence[Message]) -> str:
        """Cut the rendered conversation where the next user's text begins.

        The text before the cut must not depend on the user's text or on the text after it. If it did, the prompt would
        differ from the rendering of the later conversation.
        """
        cuts = self._cuts(messages, "user", [(_USER, True), (_USER, False), (_OTHER, True)])
        if len(cuts) != 1 or None in cuts:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't render a user's turn after {len(messages)} messages: "
                f"the text before the user's text depends on that text: {sorted(map(str, cuts))}"
            )
        before = str(cuts.pop())
        if not before:
            raise ChatTemplateError(
                f"the chat template of {self.name} can't render a user's turn: no text precedes the user's text"
            )
        return before

    def _check(self, messages: Sequence[Message], role: Role) -> None:
        if messages and messages[-1]["role"] == role:
            raise ChatTemplateError(f"the conversation's last turn is the {role}'s already: {messages[-1]}")
        if fault := self.fault(messages, role):
            raise ChatTemplateError(fault)
        self._check_roles(messages)

    def _cuts(self, messages: Sequence[Message], role: Role, ways: Sequence[tuple[str, bool]]) -> set[str | None]:
        """Return the different texts before a next turn, rendered with each (text, generation prompt) of `ways`."""
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
        except _TEMPLATE_ERRORS as error:
            raise ChatTemplateError(f"the chat template of {self.name} refuses the conversation: {error}") from error

    def _fault(self, messages: Sequence[Message], parts: bool) -> str:
        """Return how the rendering omits, repeats or reorders messages; "" if each occurs once, in order."""
        try:
            text = self._try(messages, True, parts)
        except ChatTemplateError as error:
            return str(error.__cause__)
        for message in messages:
            if text.count(message["content"]) != 1:
                return f"it shows the {message['role']}'s text {text.count(message['content'])} times"
        places = [text.index(message["content"]) for message in messages]
        return "" if places == sorted(places) else "it changes the order of the messages"

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether the template takes contents only as lists of parts, as for some vision-language models."""
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


def _render(tokenizer: Any, variables: dict[str, Any], messages: list[dict[str, Any]], generation_prompt: bool) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation_prompt, **variables
    )
    return str(text)


def _attempt(render: Render, messages: list[dict[str, Any]], generation_prompt: bool) -> str | None:
    """Return the rendered messages, or None if the template raises."""
    try:
        return render(messages, generation_prompt)
    except _TEMPLATE_ERRORS:
        return None


def _common_beginning(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)


def _user_turn(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def turn_end(after: str, special_tokens: Collection[str]) -> tuple[tuple[str, ...], str]:
    r"""Return the special tokens and the stop text that end a turn.

    Args:
        after: The text after a turn (`ChatTemplate.user_end`).
        special_tokens: Special tokens of the tokenizer.

    Returns:
        The special tokens in `after`, and the first line of the text before them ("" if there is none).

    >>> turn_end("<|im_end|>\n<|im_start|>assistant\n", ["<|im_start|>", "<|im_end|>"])
    (('<|im_end|>', '<|im_start|>'), '')
    >>> turn_end(" [/INST]", ["</s>"])
    ((), '[/INST]')
    """
    places = sorted((after.index(token), token) for token in special_tokens if token and token in after)
    text = after[: places[0][0]] if places else after
    return tuple(token for _, token in places), next(iter(text.strip().splitlines()), "")


@dataclass(frozen=True)
class PlainText:
    """Tokenizes prompts so that the contents of messages stay text.

    A tokenizer finds its added tokens anywhere in a text. A row's `<|im_end|>` would end the turn, and the text after
    it could open a system turn. So only the added tokens that the chat template writes may become tokens.

    If a message has the text of an added token, that text is split in two, and the parts are tokenized separately.
    All other prompts are tokenized unchanged.

    Args:
        tokenizer: A tokenizer of transformers, fast or slow.
        name: The model, for error messages.
    """

    tokenizer: Any
    name: str

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, with special tokens where their texts occur."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def of_text(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens."""
        tokens = self.tokens(text)
        if not self.is_marked(text) or not self._added(tokens):
            return tokens
        apart = self._joined(list(_split_special_texts(self._pattern, text)), [])
        if apart is None:
            raise ChatTemplateError(self._refusal(self._added(tokens)[0]))
        return apart

    def of_prompt(self, prompt: str, messages: Sequence[Message], render: RenderMessages) -> list[int]:
        """Return the tokens of a prompt.

        Args:
            prompt: The rendered text.
            messages: The messages in it.
            render: messages → prompt.

        Raises:
            ChatTemplateError: If the template changes a content that has the text of an added token, so that the text
                isn't found in the prompt; or if the tokenizer finds such a token even in the split text.
        """
        if not self.is_marked_in(messages):
            return self.tokens(prompt)
        free = _unused("".join(_texts_in(messages)))
        masked, _ = self._masked(messages, free, self._pattern)
        of_template = self._added(self.tokens(render(masked)))
        tokens = self.tokens(prompt)
        surplus = _unexpected_tokens(self._added(tokens), of_template)
        if not surplus:  # the template omitted that part of the contents, such as the thinking of earlier turns
            return tokens
        found_texts = [text for text, token in self._markers.items() if token in surplus]
        for pattern in (re.compile("|".join(map(re.escape, found_texts))), self._pattern):
            masked, found = self._masked(messages, free, pattern)
            rendered = render(masked)
            if _fill_placeholders(rendered, found, free) == prompt:
                apart = self._joined(list(_split_found_texts(rendered, found, free)), of_template)
                if apart is not None:
                    return apart
        raise ChatTemplateError(self._refusal(surplus[0]))

    def is_marked(self, text: str) -> bool:
        """Return whether a text contains the text of an added token."""
        return self._anywhere is not None and self._anywhere.search(text) is not None

    def is_marked_in(self, value: Any) -> bool:
        """Return whether a text in nested lists and dicts contains the text of an added token."""
        return any(map(self.is_marked, _texts_in(value)))

    def check_tools(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Check that no tool's schema contains the text of an added token.

        Raises:
            ChatTemplateError: If one does.
        """
        if self.is_marked_in(tools):
            raise ChatTemplateError(
                f"a tool's schema has the text of a special token, which {self.name} would not read as text; "
                "remove it from the row."
            )

    @cached_property
    def _markers(self) -> dict[str, int]:
        """Text of an added token → its id; without those that are plain words or white space."""
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
        """Ids of the added tokens, without the unknown token if the tokenizer uses it for characters of a text."""
        ids = frozenset(self._markers.values())
        return ids - ({self.tokenizer.unk_token_id} & set(self.tokens(chr(_PRIVATE[0]))))

    def _masked(
        self, messages: Sequence[Message], free: tuple[str, str], pattern: re.Pattern[str]
    ) -> tuple[tuple[Message, ...], list[str]]:
        """Replace each added token's text in messages by a placeholder; return the messages and the texts in order."""
        found: list[str] = []

        def mask(match: re.Match[str]) -> str:
            found.append(match.group())
            return f"{free[0]}{len(found) - 1}{free[1]}"

        masked: Any = tuple(_map_texts(message, partial(pattern.sub, mask)) for message in messages)
        return masked, found

    def _refusal(self, token: int) -> str:
        text = next(text for text, number in self._markers.items() if number == token)
        return (
            f"a message has the text of the special token {text!r}, which {self.name} would not read as text: its "
            "chat template changes the message, or its tokenizer joins the split text; remove it from the row."
        )

    def _joined(self, pieces: Sequence[str], expected: Sequence[int]) -> list[int] | None:
        """Tokenize pieces separately, so that they decode to the joined text if the tokenizer can do that.

        Some tokenizers put a space before each text, so a piece is tokenized after an anchor, which is then removed.

        Returns:
            None if the tokens have other added tokens than the expected ones.
        """
        ways = (self._after(anchor, pieces) for anchor in _ANCHORS)
        safe = [tokens for tokens in ways if tokens is not None and self._added(tokens) == list(expected)]
        text = "".join(pieces)
        return next((tokens for tokens in safe if self._reads(tokens, text)), safe[0] if safe else None)

    def _after(self, anchor: str, pieces: Sequence[str]) -> list[int] | None:
        before = self.tokens(anchor) if anchor else []
        tokens = self.tokens(pieces[0])
        for piece in pieces[1:]:
            anchored = self.tokens(anchor + piece)
            if anchored[: len(before)] != before:
                return None
            tokens += anchored[len(before) :]
        return tokens

    def _reads(self, tokens: Sequence[int], text: str) -> bool:
        read = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return bool(read.lstrip() == text.lstrip())


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a message with all its texts changed, in tool calls and thinking too, except its role."""
    if isinstance(value, Mapping):
        return {name: one if name == "role" else _map_texts(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and dicts, and the dicts' keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from map(str, value)
        yield from _texts_in(list(value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_texts_in, value))


def _unused(text: str) -> tuple[str, str]:
    """Return two characters that don't occur in a text."""
    unused = (chr(code) for code in _PRIVATE if chr(code) not in text)
    return next(unused), next(unused)


def _unexpected_tokens(tokens: Sequence[int], expected: Sequence[int]) -> list[int]:
    """Return the tokens that occur more often than expected, each once; all tokens if only their order differs."""
    more = [token for token in dict.fromkeys(tokens) if tokens.count(token) > expected.count(token)]
    return more or (list(dict.fromkeys(tokens)) if list(tokens) != list(expected) else [])


def _placeholders(free: tuple[str, str]) -> re.Pattern[str]:
    """Return the pattern of placeholders: a number between two characters that no text has."""
    return re.compile(f"{free[0]}([0-9]+){free[1]}")


def _fill_placeholders(rendered: str, found: Sequence[str], free: tuple[str, str]) -> str:
    """Return a text with the found texts in the place of their placeholders."""
    return _placeholders(free).sub(lambda sign: found[int(sign[1])], rendered)


def _split_found_texts(rendered: str, found: Sequence[str], free: tuple[str, str]) -> Iterator[str]:
    """Yield a rendered text in pieces, split in the middle of each found text, which placeholders stand for."""
    start = ""
    parts = _placeholders(free).split(rendered)
    for before, number in zip(parts[::2], parts[1::2], strict=False):
        text = found[int(number)]
        yield start + before + text[: len(text) // 2]
        start = text[len(text) // 2 :]
    yield start + parts[-1]


def _split_special_texts(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield a text in pieces, split in the middle of each match."""
    free = _unused(text)
    found = pattern.findall(text)
    numbers = iter(range(len(found)))
    yield from _split_found_texts(pattern.sub(lambda _: f"{free[0]}{next(numbers)}{free[1]}", text), found, free)
