import pytest

from tests.tiny import ready, tiny


@pytest.fixture(scope="module")
def pair():
    """A model as it is, for `generate`, and the same with the engine's attention and linear layers."""
    return tiny(), ready(tiny())
