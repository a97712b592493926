"""One model in all processes of a launch, each of which holds a part of every layer (tensor parallelism).

Process 0 leads: it alone has requests, runs the decode loop and writes. What it does with the model it tells the
others, and they do the same with their parts; transformers adds up what the parts compute.

    load                 load the model, each process its part
    memory               say for how many tokens there is memory
    slots                make the slots of a decode loop
    resize, copy, blank  change these
    read                 one forward
    dismiss              that was all of this step
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hfsynth.errors import SplitModelError
from hfsynth.distributed import process_device
from hfsynth.engine.memory import free_memory
from hfsynth.engine.memory import is_out_of_memory
from hfsynth.engine.memory import tokens_fitting
from hfsynth.engine.attention import Pass
from hfsynth.engine.attention import Prefill
from hfsynth.engine.attention import Step
from hfsynth.engine.scoring import Branches
from hfsynth.engine.kv_cache import KeyValueSlots

_PATIENCE = timedelta(days=7)  # that a process waits for the next word: process 0 may be at other work


@dataclass
class Team:
    """The processes that hold a model together."""

    rank: int
    size: int
    group: Any
    """A process group of theirs for words, beside the one for what the parts compute."""
    _slots: KeyValueSlots | None = None
    """Of a process that follows: the last that process 0 made."""

    @classmethod
    @cache
    def here(cls) -> "Team":
        """Gather all processes of the launch; each must come here."""
        process_device()  # begins the process group, if none has
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE))

    @contextmanager
    def led(self) -> Iterator[None]:
        """Lead the others, who follow: at the end of the block they are dismissed."""
        lost = False
        try:
            yield
        except (SplitModelError, KeyboardInterrupt):
            lost = True  # where the others are nobody knows, nor whether they hear; the launcher ends them
            raise
        finally:
            if not lost:
                self.tell("dismiss")

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Do what the others do, too.

        Raises:
            SplitModelError: If memory runs out: the parts would not be at the same place any more.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise SplitModelError(
                f"memory ran out in one of the {self.size} processes that hold a model together; use a smaller "
                "batch_size."
            ) from error

    def tell(self, *words: Any) -> None:
        """Say something to all others."""
        dist.broadcast_object_list([words], src=0, group=self.group)

    def follow(self, load: Callable[[], Any]) -> None:
        """Do with this process's part of the model what process 0 does with its own, until it has no more to do.

        Args:
            load: Loads the model, unless it is.
        """
        while (words := self._hear())[0] != "dismiss":
            model = load()
            with torch.inference_mode():
                self._obey(model, *words)

    def _obey(self, model: Any, word: str, *how: Any) -> None:
        if word == "memory":
            self._slots = None  # those of a loop that is no more
            free_memory()
            self.fitting(model)
        elif word == "slots":
            count, capacity = how
            self._slots = KeyValueSlots(count, capacity, model.device)
        elif word in ("resize", "copy", "blank"):
            getattr(self._slots, word)(*how)
        elif word == "read":
            tokens, positions, keep, kind, where = how
            model(
                input_ids=torch.tensor(tokens, device=model.device),
                position_ids=torch.tensor(positions, device=model.device),
                use_cache=False,
                logits_to_keep=keep,
                tokens=_pass(kind, where, self._slots, model.device),
            )

    def fitting(self, model: Any) -> int:
        """Return for how many tokens' keys and values all of them have memory."""
        every: list[int] = [0] * self.size
        dist.all_gather_object(every, tokens_fitting(model), group=self.group)
        return min(every)

    def _hear(self) -> tuple[Any, ...]:
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, src=0, group=self.group)
        words: tuple[Any, ...] = heard[0]
        return words


class SplitModel:
    """The model of process 0: called like any other, it has the others read the same."""

    def __init__(self, model: Any, team: Team) -> None:
        self._model = model
        self._team = team

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        use_cache: bool,
        logits_to_keep: Sequence[int] | int,
        tokens: Pass,
    ) -> Any:
        """Read tokens; `use_cache` is off.

        Raises:
            SplitModelError: If memory runs out: the parts would not be at the same place any more.
        """
        self._team.tell("read", input_ids.tolist(), position_ids.tolist(), logits_to_keep, *_described(tokens))
        with self._team.in_step():
            return self._model(
                input_ids=input_ids,
                position_ids=position_ids,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                tokens=tokens,
            )

    def tokens_fitting(self) -> int:
        """Return for how many tokens' keys and values there is memory in every process."""
        self._team.tell("memory")
        return self._team.fitting(self._model)

    def new_slots(self, count: int, capacity: int) -> KeyValueSlots:
        """Make slots that are the same in all processes, in place of those made before."""
        self._team.tell("slots", count, capacity)
        slots = _LeadingSlots(count, capacity, self._model.device)
        slots.team = self._team
        return slots


class _LeadingSlots(KeyValueSlots):
    """Slots of process 0: the others change theirs with it."""

    team: Team

    def resize(self, count: int, capacity: int, lengths: Sequence[int]) -> None:
        self.team.tell("resize", count, capacity, lengths)
        with self.team.in_step():
            super().resize(count, capacity, lengths)

    def copy(self, sources: Any, targets: Any, lengths: Any) -> None:
        self.team.tell("copy", sources, targets, lengths)
        with self.team.in_step():
            super().copy(sources, targets, lengths)

    def blank(self, slot: int) -> None:
        self.team.tell("blank", slot)
        super().blank(slot)


def _described(where: Pass) -> tuple[str, Any]:
    """Say what makes a pass, without tensors: each process has a device of its own."""
    match where:
        case Branches():
            return "branches", where.compared
        case Prefill():
            return "prefill", where.segments
        case Step():
            return "step", where.lengths
    raise TypeError(f"no process but this one knows what a {type(where).__name__} is")


def _pass(kind: str, where: Any, slots: Any, device: torch.device) -> Pass:
    """Make a pass of what `_described` says."""
    if kind == "branches":
        return Branches.of(where, device)
    return Prefill(slots, where, device) if kind == "prefill" else Step(slots, where)
