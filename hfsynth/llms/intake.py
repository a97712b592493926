"""Requests on their way into a model: those to be written become jobs, those with choices are scored together."""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hfsynth.errors import ChatTemplateError
from hfsynth.generation import Completion, Request, Requests
from hfsynth.llms.job import Job, PromptTooLongError
from hfsynth.llms.scoring import FORWARD_TOKENS, Comparison

if TYPE_CHECKING:
    from hfsynth.llms.loaded import Loaded


@dataclass
class Intake:
    """Turns requests into jobs as they are wanted, and has ready what needs none: what is refused or scored.

    Requests with choices are gathered, and scored when a forward is full or no other request waits.
    """

    loaded: "Loaded"
    requests: Requests
    asked: dict[Job, tuple[Hashable, Request, str]] = field(default_factory=dict)
    """Job → the request's key, the request and its prompt."""
    ready: deque[tuple[Hashable, Completion]] = field(default_factory=deque)
    """Completions to be given back, with their requests' keys."""
    _gathered: list[tuple[Hashable, Request, Comparison]] = field(default_factory=list)

    def given_back(self) -> Iterator[tuple[Hashable, Completion]]:
        """Give out what is ready, once."""
        while self.ready:
            yield self.ready.popleft()

    def take(self) -> Job | None:
        """Return the next request's job; None where none waits now.

        Also None, rather than to let further requests be put, while something is ready: it is to be given back first.
        """
        while self.requests or not (self.ready or self._gathered):
            if (item := self.requests.take()) is None:
                return None
            if job := self._taken(*item):
                return job
        self._score()
        return None

    def _taken(self, key: Hashable, request: Request) -> Job | None:
        """Return a request's job, or None if it is refused or has choices."""
        try:
            prompt = self.loaded.prompt(request)
            if request.choices:
                self._gather(key, request, self.loaded.comparison(request, prompt))
            else:
                job = self.loaded.job(request, prompt)
                self.asked[job] = key, request, prompt
                return job
        except (ChatTemplateError, PromptTooLongError) as error:
            self.ready.append((key, Completion(text="", finish_reason="refused", error=str(error))))
        return None

    def _gather(self, key: Hashable, request: Request, comparison: Comparison) -> None:
        """Add a request to the next forward, or to one after it where that is full."""
        if sum(len(one.tokens) for _, _, one in self._gathered) + len(comparison.tokens) > FORWARD_TOKENS:
            self._score()
        self._gathered.append((key, request, comparison))

    def _score(self) -> None:
        """Score what is gathered."""
        gathered, self._gathered = self._gathered, []
        completions = self.loaded.score([one for _, _, one in gathered]) if gathered else []
        for (key, request, _), made in zip(gathered, completions, strict=True):
            self.ready.append((key, replace(made, text=request.choices[made.scores.index(max(made.scores))])))
