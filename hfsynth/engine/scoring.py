"""Score texts after a prompt: the prompt is read once, and all its choices after it, in one forward.

    tokens      prompt   first choice   second choice
    place       0 … 9    10 … 12        13 … 14          index in the request's slot
    position    0 … 9    10 … 12        10 … 11          position in the text, which the model and its windows count
    owner       0 … 0    1 … 1          2 … 2            0 the prompt, 1, 2 … the choices

A token attends to earlier tokens of the prompt and of its own choice. Several requests go into one forward, each in a
slot of its own, so no request attends to another's tokens. A choice's score is the sum of its tokens'
log-probabilities and the logarithm of the probability that its turn then ends; without the latter, "good" would also
score as the beginning of "good enough".

A model whose attention can't be replaced reads prompt and choice together, a padded row for each choice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfsynth.chat import TokenizedChoices, log_sum
from hfsynth.engine.attention import PrefillBatch, Segment, bucket_of, forward
from hfsynth.engine.kv_cache import KeyValueSlots, split_on_oom

FORWARD_TOKENS = 2048
"""Most tokens in one forward; a longer request has a forward of its own."""
_ROWS = 128  # rows of logits that are normalised at once, in float32
T = TypeVar("T")


def score(model: Any, compared: Sequence[TokenizedChoices], is_replaced: bool) -> list[tuple[float, ...]]:
    """Return the log-likelihoods of each request's choices, in their order.

    Args:
        model: A transformers causal language model.
        compared: The requests. The scores of one depend on the others by no more than rounding.
        is_replaced: Whether the model's attention is `attention.attend`; padded rows are read where it isn't.

    Raises:
        GenerationError: If one request alone runs out of memory.
    """
    compute = partial(_score_branches if is_replaced else _score_padded, model)
    scores: list[tuple[float, ...]] = []
    for group in _groups(compared, lambda one: len(one.token_ids)):
        scores += split_on_oom(compute, group, lambda one: f"a request of {len(one.token_ids)} tokens")
    return scores


@dataclass
class ChoiceBatch(PrefillBatch):
    """Prompts with several continuations, each of which attends to itself and the prompt: one request in each slot."""

    compared: Sequence[TokenizedChoices] = ()

    @classmethod
    def of(cls, compared: Sequence[TokenizedChoices], device: torch.device) -> "ChoiceBatch":
        """Give each request a slot."""
        lengths = [len(one.token_ids) for one in compared]
        slots = _OneLayer(len(compared), bucket_of(max(lengths)), device)
        return cls(slots, [Segment(slot, 0, length) for slot, length in enumerate(lengths)], device, compared)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its text, (T,)."""
        return torch.tensor([place for one in self.compared for place in _positions(one)], device=self.device)

    def _mask(
        self, block: tuple[slice, int, int, int], sliding_window: int | None, query: Tensor, shared: int
    ) -> Tensor:
        """Return the mask of a block, (1, 1, shared × tokens, bucket)."""
        place, slot, start, bucket = block
        one, count = self.compared[slot], place.stop - place.start
        padding = [-1] * max(0, bucket - len(one.token_ids))  # places after the last token
        owners = torch.tensor([*_owners(one), *padding][:bucket], device=query.device)
        positions = torch.tensor([*_positions(one), *padding][:bucket], device=query.device)
        places = torch.arange(bucket, device=query.device)
        own = slice(start, start + count)
        visible = places <= places[own, None]  # (count, bucket)
        visible &= (owners == 0) | (owners == owners[own, None])
        if sliding_window is not None:
            visible &= positions > positions[own, None] - sliding_window
        mask = torch.zeros(visible.shape, dtype=query.dtype, device=query.device).masked_fill_(~visible, -torch.inf)
        return mask.repeat(shared, 1)[None, None]


class _OneLayer(KeyValueSlots):
    """Slots that hold one layer: in a single forward, no earlier layer is needed again."""

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values, and forget those of the layer before."""
        self.layers.clear()
        return super().layer(index, key, value)


def _positions(one: TokenizedChoices) -> list[int]:
    """Return the position of each token: every choice begins where the prompt ends."""
    after = len(one.prompt_ids)
    return [*range(after), *(after + place for choice in one.choices for place in range(len(choice)))]


def _owners(one: TokenizedChoices) -> list[int]:
    """Return the owner of each token: 0 for the prompt, else the number of its choice."""
    of_choices = ([number] * len(choice) for number, choice in enumerate(one.choices, 1))
    return [*[0] * len(one.prompt_ids), *chain.from_iterable(of_choices)]


def _logit_rows(one: TokenizedChoices) -> list[list[int]]:
    """Return for each choice the rows of logits that predict its tokens and its end; row 0 is the prompt's last."""
    rows, first = [], 1
    for choice in one.choices:
        rows.append([0, *range(first, first + len(choice))])
        first += len(choice)
    return rows


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


def _score_branches(model: Any, compared: Sequence[TokenizedChoices]) -> list[tuple[float, ...]]:
    """Score requests in one forward."""
    keep, first = list[int](), 0
    for one in compared:
        keep += range(first + len(one.prompt_ids) - 1, first + len(one.token_ids))
        first += len(one.token_ids)
    with torch.inference_mode():
        tokens = [token for one in compared for token in one.token_ids]
        logits = forward(model, tokens, ChoiceBatch.of(compared, model.device), keep)
        scores, first = list[tuple[float, ...]](), 0
        for one in compared:
            count = len(one.token_ids) - len(one.prompt_ids) + 1
            scores.append(_scores(one, logits[first : first + count]))
            first += count
    return scores


def _score_padded(model: Any, compared: Sequence[TokenizedChoices]) -> list[tuple[float, ...]]:
    """Score requests in padded rows of prompt and choice, as many at once as one forward takes."""
    rows = [TokenizedChoices(one.prompt_ids, [choice], one.end_tokens) for one in compared for choice in one.choices]
    longest = max(len(row.token_ids) for row in rows)
    scores: list[float] = []
    for group in _groups(rows, lambda row: longest):  # noqa: ARG005 - each takes as much room as the longest
        scores += _score_padded_rows(model, group)
    left = iter(scores)
    return [tuple(next(left) for _ in one.choices) for one in compared]


def _score_padded_rows(model: Any, rows: Sequence[TokenizedChoices]) -> list[float]:
    """Score rows of one choice each, padded at their ends: then no token of any model comes after padding."""
    longest = max(len(row.token_ids) for row in rows)
    ids = [[*row.token_ids, *[0] * (longest - len(row.token_ids))] for row in rows]  # the mask hides the padding
    mask = [[1] * len(row.token_ids) + [0] * (longest - len(row.token_ids)) for row in rows]
    kept = longest - min(len(row.prompt_ids) for row in rows) + 1
    options = {"logits_to_keep": kept} if supports_logits_to_keep(model) else {}
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            use_cache=False,
            **options,
        )
        logits = output.logits[:, -kept:]  # (rows, kept, vocabulary)
        begins = [len(row.prompt_ids) - 1 - (longest - kept) for row in rows]
        ends = [begin + len(row.choices[0]) + 1 for begin, row in zip(begins, rows, strict=True)]
        parts = [logits[number, begin:end] for number, (begin, end) in enumerate(zip(begins, ends, strict=True))]
        return [_scores(row, part)[0] for row, part in zip(rows, parts, strict=True)]


def supports_logits_to_keep(model: Any) -> bool:
    """Whether a model can compute the logits of its last tokens alone. transformers' name of that is private."""
    return bool(model._supports_logits_to_keep())


def _scores(one: TokenizedChoices, logits: Tensor) -> tuple[float, ...]:
    """Return each choice's score from the logits after the prompt and after every token of the choices: (rows, V)."""
    wanted: list[tuple[int, int]] = []  # rows, and tokens whose probability there is needed
    for rows, choice in zip(_logit_rows(one), one.choices, strict=True):
        wanted += zip(rows, choice, strict=False)
        wanted += [(rows[-1], end) for end in sorted(one.end_tokens)]
    found = iter(_log_probabilities(logits, wanted))
    scores: list[float] = []
    for choice in one.choices:
        own = [next(found) for _ in choice]
        ends = [next(found) for _ in one.end_tokens]
        scores.append(math.fsum(own) + (log_sum(ends) if ends else 0.0))
    return tuple(scores)


def _log_probabilities(logits: Tensor, wanted: Sequence[tuple[int, int]]) -> list[float]:
    """Return the log-probabilities of (row, token) pairs; some rows at a time are normalised."""
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
