import pytest

from hfsynth import errors

ERRORS = [value for value in vars(errors).values() if isinstance(value, type)]


@pytest.mark.parametrize("error", ERRORS)
def test_error_has_the_root(error):
    assert issubclass(error, errors.HfsynthError)


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (errors.ColumnError, ValueError),
        (errors.ChatTemplateError, ValueError),
        (errors.FlowError, TypeError),
        (errors.GenerationError, RuntimeError),
        (errors.ServerError, errors.GenerationError),
        (errors.RunError, RuntimeError),
        (errors.RemakeError, ValueError),
        (errors.PushError, RuntimeError),
    ],
)
def test_error_is_caught_as_a_python_error(error, base):
    with pytest.raises(base, match="reason"):
        raise error("reason")


def test_row_error_keeps_the_completion():
    error = errors.RowError("why", "raw", transient=True)
    assert (error.reason, error.raw, error.transient, str(error)) == ("why", "raw", True, "why")
