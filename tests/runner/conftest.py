import pytest


@pytest.fixture
def acting(tmp_path, monkeypatch):
    """The folder in which the llms of `tests.acting` write their notes."""
    monkeypatch.setenv("ACTING_FOLDER", str(tmp_path))
    monkeypatch.setenv("ACTION", "none any any")
    return tmp_path
