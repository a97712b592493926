"""A filter of texts by rules, of which the user chooses those that apply."""

from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hfsynth.filter import Drop
from hfsynth.filters.texts import TextFilter

Found = tuple[str, str]
"""What a rule found, and what that met: a limit, say."""


@dataclass(frozen=True, kw_only=True)
class RuleFilter(TextFilter, ABC):
    """A filter with a method `_<rule>` for each rule: a text → what was found in it and what that met, or None.

    Raises:
        ValueError: If a rule isn't known.
    """

    all_rules: ClassVar[tuple[str, ...]]
    """The rules' names, in the order in which they are tried."""
    default_rules: ClassVar[tuple[str, ...]] = ()
    """Those that apply where none is named; all of them, if it is empty."""

    rules: tuple[str, ...] = field(default=(), metadata={"help": "The rules that apply. Default: all of them."})

    def __post_init__(self) -> None:
        """Check the rules."""
        super().__post_init__()
        if unknown := [rule for rule in self.rules if rule not in self.all_rules]:
            raise ValueError(f"{self.name} has no rule {unknown[0]!r}; its rules are {list(self.all_rules)}.")
        # in their own order: it decides which one is told of a text that several would drop
        chosen = self.rules or self.default_rules or self.all_rules
        object.__setattr__(self, "rules", tuple(rule for rule in self.all_rules if rule in chosen))

    def decide(self, texts: Iterator[str], kept: Iterator[str]) -> Iterator[Drop | None]:  # noqa: ARG002
        """Try the rules on each text; what came before doesn't matter."""
        return map(self.verdict, texts)

    def verdict(self, text: str) -> Drop | None:
        """Return why a text is dropped, by the first rule that does, or None where none does."""
        for rule in self.rules:
            found: Found | None = getattr(self, f"_{rule}")(text)
            if found is not None:
                return Drop(rule, *found)
        return None
