"""The exceptions of hfsynth. All inherit from `HfsynthError`, and most from an exception of Python too.

HfsynthError
├── ColumnError         (ValueError)    a column is missing, of the wrong type, or would be replaced
├── ChatTemplateError   (ValueError)    a chat template can't render a request
├── FlowError           (TypeError)     a technique's flow yields or returns a wrong value
├── RunError            (RuntimeError)  a run can't be finished; finished chunks are kept
├── GenerationError     (RuntimeError)  an llm can't continue
│   └── ServerError                     a server refuses every request, or stays unreachable
├── RemakeError         (ValueError)    published rows can't be generated again
├── PushError           (RuntimeError)  the Hub doesn't take a dataset
└── RowError                            a row fails; caught by the technique and recorded
    └── TruncatedError                  a text that the row needs was cut off
"""


class HfsynthError(Exception):
    """The base of all exceptions that hfsynth raises on purpose, except for wrong arguments."""


class ColumnError(HfsynthError, ValueError):
    """A column that a step needs is missing or of the wrong type, or an output would replace a column."""


class ChatTemplateError(HfsynthError, ValueError):
    """A model's chat template can't render a request: it refuses a system role, say, or an open user turn."""


class FlowError(HfsynthError, TypeError):
    """A technique's flow yields anything but requests, returns undeclared outputs, or raises for every row."""


class GenerationError(HfsynthError, RuntimeError):
    """An llm can't continue, for any row: its model can't be loaded, or it returned too few completions."""


class ServerError(GenerationError):
    """A server can't be used now: it refuses the key or the model, or stays unreachable after all retries.

    Every other request would fail too, so a run ends at once and keeps its finished chunks.
    """


class RunError(HfsynthError, RuntimeError):
    """A run can't be finished. Finished chunks are kept, and the same command computes the rest."""


class RemakeError(HfsynthError, ValueError):
    """Rows of a published dataset can't be generated again: a recipe, a class or the source is missing, say."""


class PushError(HfsynthError, RuntimeError):
    """A dataset can't be pushed: the Hub refuses the token, the name or the card, or can't be reached."""


class RowError(HfsynthError):
    """One row fails. A flow raises it; the row's outputs become None and the reason is recorded.

    Args:
        reason: The reason, for the record.
        raw: The completion that could not be used, if there is one.
        transient: Whether a later try may succeed (an endpoint is down, memory is taken): the same run, started again,
            retries such a row.
    """

    def __init__(self, reason: str, raw: str = "", *, transient: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.raw = raw
        self.transient = transient


class TruncatedError(RowError):
    """A text that a row needs was cut off by `max_new_tokens` or by the llm's context."""
