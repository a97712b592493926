"""How likely texts are after a prompt: the prompt is read once, and all its choices after it, in one forward.

    tokens      prompt   first choice   second choice
    place       0 … 9    10 … 12        13 … 14          in the request's slot, and what a mask speaks of
    position    0 … 9    10 … 12        10 … 11          what the model is told, and what a window counts
    owner       0 … 0    1 … 1          2 … 2            a token sees earlier places of the prompt and of its owner

Several requests go into one forward, each in a slot of its own, so that none is read with another's. A choice's score
is the sum of its tokens' log-probabilities and the logarithm of the probability that its turn then ends: so "good"
doesn't count as the beginning of "good enough".

A model whose attention can't be replaced reads prompt and choice together, a padded row for each choice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfsynth.engine.attention import Prefill, Segment, forward, window_of
from hfsynth.engine.kv_cache import KeyValueSlots
from hfsynth.engine.memory import compute_fitting

FORWARD_TOKENS = 2048
"""Most tokens in one forward, but for a request that has more of them alone."""
_ROWS = 128  # rows of logits whose probabilities are worked out at once, in float32
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Texts to be scored after one prompt."""

    prompt: Sequence[int]
    """Its tokens, at least one."""
    choices: Sequence[Sequence[int]]
    """The tokens of each text."""
    end_tokens: frozenset[int]
    """Tokens that end a text; where there are none, its end is not scored."""

    @cached_property
    def tokens(self) -> list[int]:
        """The prompt and all choices, one after the other."""
        return [*self.prompt, *chain.from_iterable(self.choices)]

    @cached_property
    def positions(self) -> list[int]:
        """Position of each token: every choice goes on where the prompt ends."""
        after = len(self.prompt)
        return [*range(after), *(after + place for choice in self.choices for place in range(len(choice)))]

    @cached_property
    def owners(self) -> list[int]:
        """Whose each token is: 0 of the prompt, then the number of its choice."""
        of_choices = ([number] * len(choice) for number, choice in enumerate(self.choices, 1))
        return [*[0] * len(self.prompt), *chain.from_iterable(of_choices)]

    @cached_property
    def rows(self) -> list[list[int]]:
        """For each choice, the rows of logits that say its tokens and its end: row 0 comes after the prompt's last."""
        found, first = [], 1
        for choice in self.choices:
            found.append([0, *range(first, first + len(choice))])
            first += len(choice)
        return found


class _OneLayer(KeyValueSlots):
    """Room for one layer: in a single forward, nobody comes back to the keys and values of an earlier one."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, and forget those of the layer before."""
        self.layers.clear()
        return super().layer(index, key, value)


@dataclass
class Branches(Prefill):
    """Prompts that go on in several ways, each of which sees itself and the prompt: one comparison in each slot."""

    compared: Sequence[Comparison] = ()

    @classmethod
    def of(cls, compared: Sequence[Comparison], device: torch.device) -> "Branches":
        """Give each comparison a slot."""
        lengths = [len(one.tokens) for one in compared]
        slots = _OneLayer(len(compared), window_of(max(lengths)), device)
        return cls(slots, [Segment(slot, 0, length) for slot, length in enumerate(lengths)], device, compared)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its text, (T,)."""
        return torch.tensor([place for one in self.compared for place in one.positions], device=self.device)

    def _mask(self, block: tuple[slice, int, int, int], reach: int | None, query: Tensor, shared: int) -> Tensor:
        place, slot, start, window = block
        one, count = self.compared[slot], place.stop - place.start
        room = [-1] * max(0, window - len(one.tokens))  # places after the last token
        owners = torch.tensor([*one.owners, *room][:window], device=query.device)
        positions = torch.tensor([*one.positions, *room][:window], device=query.device)
        places = torch.arange(window, device=query.device)
        own = slice(start, start + count)
        seen = places <= places[own, None]  # (count, window)
        seen &= (owners == 0) | (owners == owners[own, None])
        if reach is not None:
            seen &= positions > positions[own, None] - reach
        mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device).masked_fill_(~seen, -torch.inf)
        return mask.repeat(shared, 1)[None, None]


def score(model: Any, compared: Sequence[Comparison], replaced: bool) -> list[tuple[float, ...]]:
    """Score the choices of all comparisons: of each the log-likelihoods, in its choices' order.

    Args:
        model: A transformers causal language model.
        compared: The comparisons. What becomes of one depends on the others by no more than rounding.
        replaced: Whether the model's attention is `attention.attend`; padded rows are read where it isn't.

    Raises:
        GenerationError: If one comparison alone runs out of memory.
    """
    how = _branching if replaced else _padded
    scores: list[tuple[float, ...]] = []
    for group in _groups(compared, lambda one: len(one.tokens)):
        scores += compute_fitting(partial(how, model), group, lambda one: f"a request of {len(one.tokens)} tokens")
    return scores


def _groups(items: Sequence[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut items into groups of at most `FORWARD_TOKENS`, and at least one."""
    group: list[T] = []
    for item in items:
        if group and sum(map(size, group)) + size(item) > FORWARD_TOKENS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _branching(model: Any, compared: Sequence[Comparison]) -> list[tuple[float, ...]]:
    """Score comparisons in one forward."""
    keep, first = list[int](), 0
    for one in compared:
        keep += range(first + len(one.prompt) - 1, first + len(one.tokens))
        first += len(one.tokens)
    with torch.inference_mode():
        tokens = [token for one in compared for token in one.tokens]
        logits = forward(model, tokens, Branches.of(compared, model.device), keep)
        scores, first = list[tuple[float, ...]](), 0
        for one in compared:
            count = len(one.tokens) - len(one.prompt) + 1
            scores.append(_scores(one, logits[first : first + count]))
            first += count
    return scores


def _padded(model: Any, compared: Sequence[Comparison]) -> list[tuple[float, ...]]:
    """Score comparisons in padded rows of prompt and choice, as many at once as there is room for."""
    rows = [Comparison(one.prompt, [choice], one.end_tokens) for one in compared for choice in one.choices]
    longest = max(len(row.tokens) for row in rows)
    scores: list[float] = []
    for group in _groups(rows, lambda row: longest):  # noqa: ARG005 - each takes as much room as the longest
        scores += _read_padded(model, group)
    left = iter(scores)
    return [tuple(next(left) for _ in one.choices) for one in compared]


def _read_padded(model: Any, rows: Sequence[Comparison]) -> list[float]:
    """Score rows of one choice each, padded behind: then no model's tokens come after what pads."""
    longest = max(len(row.tokens) for row in rows)
    ids = [[*row.tokens, *[0] * (longest - len(row.tokens))] for row in rows]  # the mask hides whatever pads
    mask = [[1] * len(row.tokens) + [0] * (longest - len(row.tokens)) for row in rows]
    kept = longest - min(len(row.prompt) for row in rows) + 1
    options = {"logits_to_keep": kept} if model._supports_logits_to_keep() else {}
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            use_cache=False,
            **options,
        )
        logits = output.logits[:, -kept:]  # (rows, kept, vocabulary)
        begins = [len(row.prompt) - 1 - (longest - kept) for row in rows]
        ends = [begin + len(row.choices[0]) + 1 for begin, row in zip(begins, rows, strict=True)]
        parts = [logits[number, begin:end] for number, (begin, end) in enumerate(zip(begins, ends, strict=True))]
        return [_scores(row, part)[0] for row, part in zip(rows, parts, strict=True)]


def _scores(one: Comparison, logits: Tensor) -> tuple[float, ...]:
    """Return each choice's score from the logits after the prompt and after every token of the choices: (rows, V)."""
    wanted: list[tuple[int, int]] = []  # rows and the tokens whose probability there is asked for
    for rows, choice in zip(one.rows, one.choices, strict=True):
        wanted += zip(rows, choice, strict=False)
        wanted += [(rows[-1], end) for end in sorted(one.end_tokens)]
    found = iter(_log_probabilities(logits, wanted))
    scores: list[float] = []
    for choice in one.choices:
        said = [next(found) for _ in choice]
        ends = [next(found) for _ in one.end_tokens]
        scores.append(math.fsum(said) + (_log_sum(ends) if ends else 0.0))
    return tuple(scores)


def _log_probabilities(logits: Tensor, wanted: Sequence[tuple[int, int]]) -> list[float]:
    """Return the log-probabilities of some tokens, each given with its row; a few rows at a time are normalised."""
    if not wanted:
        return []
    rows, tokens = torch.tensor(wanted, device=logits.device).T
    found = torch.empty(len(rows), device=logits.device)
    for first in range(0, len(logits), _ROWS):
        part = torch.log_softmax(logits[first : first + _ROWS].float(), -1)
        here = (rows >= first) & (rows < first + _ROWS)
        found[here] = part[rows[here] - first, tokens[here]]
    values: list[float] = found.tolist()
    return values


def _log_sum(values: Sequence[float]) -> float:
    """Logarithm of a sum of probabilities, from their logarithms."""
    largest = max(values)
    if largest == -math.inf:
        return largest
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
