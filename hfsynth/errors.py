"""The exceptions of hfsynth.

Exception
├── ValueError
│   ├── ColumnError         a column is missing, of the wrong type, or would be replaced
│   └── ChatTemplateError   a chat template can't render what was asked of it
├── TypeError
│   └── FlowError           a technique's flow yields or returns something else than it must
├── RuntimeError
│   ├── RunError            a run could not be finished; what was finished is kept
│   ├── GenerationError     an llm can't go on
│   └── PushError           the Hub doesn't take a dataset
└── RowError                one row came to nothing; caught by the technique and recorded, never seen outside
    └── TruncatedError      a text that the row needs was cut off
"""


class ColumnError(ValueError):
    """A column that a technique needs is missing or of the wrong type, or one it makes would replace another."""


class ChatTemplateError(ValueError):
    """A model's chat template can't say what was asked of it: a system role, say, or the user's turn."""


class FlowError(TypeError):
    """A technique's flow is not what it must be: it yields no requests, returns other outputs, or always raises."""


class GenerationError(RuntimeError):
    """An llm can't go on: not one row's failure, which is data, but a failure of all that would follow."""


class RunError(RuntimeError):
    """A run could not be finished. What was finished is kept, and the same command does the rest."""


class PushError(RuntimeError):
    """A dataset can't be pushed: the Hub refuses the token, the name or the card, or can't be reached."""


class RowError(Exception):
    """One row came to nothing. A flow raises it; the row's outputs become None and the reason is recorded.

    Args:
        reason: What went wrong, for the record.
        raw: The completion that could not be used, where there was one.
        passing: Whether the row may come to something at another time (an endpoint is down, memory is taken): the
            same run, started again, tries such a row again.
    """

    def __init__(self, reason: str, raw: str = "", *, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.raw = raw
        self.passing = passing


class TruncatedError(RowError):
    """A text that a row needs was cut off by `max_new_tokens` or by the llm's context."""
