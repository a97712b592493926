from hfsynth import ChatTemplateError, ColumnError, GenerationError, RowError


def test_errors_can_be_caught_as_what_they_are_in_python():
    assert issubclass(ColumnError, ValueError)
    assert issubclass(ChatTemplateError, ValueError)
    assert issubclass(GenerationError, RuntimeError)
    assert RowError("why", "raw").raw == "raw"
