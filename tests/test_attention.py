import pytest
import torch

from hfsynth.engine.attention import Step, UnsupportedAttention, attend
from hfsynth.engine.kv_cache import KeyValueSlots

CPU = torch.device("cpu")


def test_a_model_that_asks_for_more_is_told():
    step = Step(KeyValueSlots(1, 32, CPU), [0])
    with pytest.raises(UnsupportedAttention, match="Module needs softcap"):
        attend(torch.nn.Module(), *[torch.zeros(1, 2, 1, 8)] * 3, None, tokens=step, softcap=30.0)
    with pytest.raises(UnsupportedAttention, match="doesn't hand on"):
        attend(torch.nn.Module(), *[torch.zeros(1, 2, 1, 8)] * 3, None)
