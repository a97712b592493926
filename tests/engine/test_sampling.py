import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hfsynth import SamplingParams
from hfsynth.engine import sampling
from hfsynth.engine.sampling import Sampler, uniforms
from hfsynth.errors import GenerationError
from hfsynth.flow import derive_seed

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5])
CPU = torch.device("cpu")


def expected(params):
    """The distribution, computed by the book, in float64."""
    weights = (LOGITS.double() / params.temperature).softmax(-1)
    weights[weights < params.min_p * weights.max()] = 0
    order = weights.argsort(descending=True)
    kept = torch.zeros_like(weights)
    total = 0.0
    allowed = weights[order][: params.top_k or None].sum()
    for token in order[: params.top_k or None]:
        if total >= params.top_p * allowed:
            break
        kept[token] = weights[token]
        total += weights[token]
    return kept / kept.sum()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.6),
        SamplingParams(min_p=0.3),
        SamplingParams(temperature=2, top_k=4, top_p=0.8, min_p=0.1),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_the_distribution_says(params):
    number = 20_000
    # evenly spaced numbers measure the shares exactly, without chance
    even = (torch.arange(number) + 0.5) / number
    sampler = Sampler.of([params] * number, len(LOGITS), CPU)
    chosen = sampler.choose(LOGITS.expand(number, -1), even)
    shares = torch.bincount(chosen, minlength=len(LOGITS)) / number
    assert torch.allclose(shares.double(), expected(params), atol=2 / number)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_choose_with_a_buffer_chooses_the_same(dtype):
    params = [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_p=0.5, presence_penalty=1.0)] * 4
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(len(params), 3000, generator=draw, dtype=torch.float64).to(dtype)
    before, uniform = logits.clone(), torch.rand(len(params), generator=draw)
    sampler, buffer = Sampler.of(params, 3000, CPU), torch.full((len(params) + 2, 3000), torch.nan)
    expected = sampler.choose(logits, uniform, [[7]] * len(params))
    assert torch.equal(sampler.choose(logits, uniform, [[7]] * len(params), buffer), expected)
    assert torch.equal(logits, before)
    assert torch.allclose(buffer[: len(params)].sum(-1), torch.ones(len(params)))


def test_each_row_has_its_own_parameters():
    params = [SamplingParams(temperature=0), SamplingParams(top_k=1), SamplingParams(temperature=5)]
    chosen = Sampler.of(params, 5, CPU).choose(LOGITS.expand(3, -1), torch.tensor([0.9999, 0.9999, 0.9999]))
    assert chosen.tolist() == [0, 0, 4]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_choose_at_the_ends_of_uniform_has_weight(uniform):
    logits = torch.full((1, 50_000), -200.0)
    logits[0, 7] = 5.0
    logits[0, 49] = 5.0
    chosen = Sampler.of([SamplingParams()], 50_000, CPU).choose(logits, torch.tensor([uniform]))
    assert chosen.item() in (7, 49)


def test_choose_does_not_depend_on_other_rows():
    plain, sorting = SamplingParams(), SamplingParams(top_p=0.9)
    for uniform in torch.linspace(0, 0.99, 34):
        alone = Sampler.of([plain], 5, CPU).choose(LOGITS[None], uniform[None])
        beside = Sampler.of([plain, sorting], 5, CPU).choose(LOGITS.expand(2, -1), uniform.expand(2))
        assert alone[0] == beside[0]


def test_a_random_stream_is_the_requests_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stream = uniforms(5, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(uniforms(5, 20)[:10], stream)
    assert not torch.equal(uniforms(6, 10), stream)
    assert 0 <= stream.min() <= stream.max() < 1


@pytest.mark.parametrize(
    ("seed", "first"),
    [
        (0, [0.011546730995178223, 0.24154919385910034, 0.11142581701278687]),
        (2**63 - 1, [0.9258067011833191, 0.18157023191452026, 0.619256854057312]),
    ],
)
def test_uniforms_of_a_seed_are_the_same_in_every_release(seed, first):
    assert uniforms(seed, 3).tolist() == first
    assert uniforms(seed, 3).dtype is torch.float32


@pytest.mark.parametrize("bit", [0, 31, 32, 33, 48, 62, 63, 64, 127])
def test_uniforms_depend_on_every_bit_of_the_seed(bit):
    assert not (uniforms(5, 8) == uniforms(5 ^ (1 << bit), 8)).any()


@pytest.mark.parametrize(
    "rows",
    [
        (52939, 53393),
        (37834, 81803),
        (60323, 119377),
        (23373, 120618),
        (45465, 189148),
        (148545, 236355),
        (52725, 262629),
    ],
)
def test_uniforms_of_seeds_alike_in_32_bits_differ(rows):
    """Of the first 300,000 rows of Magpie, these share the lower half of their seeds."""
    one, other = (derive_seed(0, "Magpie", row, 0) for row in rows)
    assert one % 2**32 == other % 2**32
    assert not (uniforms(one, 8) == uniforms(other, 8)).any()


def test_uniforms_are_those_of_numpys_philox_generator():
    sampled = np.random.Generator(np.random.Philox(key=2**40 + 7)).random(1000)
    assert np.abs(uniforms(2**40 + 7, 1000).double().numpy() - sampled).max() <= 2**-24


def test_uniforms_of_a_negative_seed_are_its_own():
    assert not (uniforms(-1, 8) == uniforms(1, 8)).any()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_k=3), SamplingParams(top_p=0.9, min_p=0.1)],
    ids=str,
)
def test_choose_with_nan_logits_returns_minus_one(params, broken):
    logits = torch.zeros(3, 1000)
    logits[1, 7] = broken
    sampler = Sampler.of([SamplingParams(), params, SamplingParams(temperature=0)], 1000, CPU)
    chosen = sampler.choose(logits, torch.full((3,), 0.5))
    assert chosen[1] == -1
    assert (chosen[[0, 2]] >= 0).all()
    with pytest.raises(GenerationError, match=r"for each of 3 rows, .* not numbers \(NaN or infinite\); use another"):
        sampler.choose(torch.full((3, 1000), broken), torch.full((3,), 0.5))


def test_words_that_a_model_rules_out_are_no_error():
    logits = LOGITS.clone()
    logits[0] = -torch.inf
    params = [SamplingParams(temperature=temperature) for temperature in (0, 1e-40, 1e30)]
    chosen = Sampler.of(params, 5, CPU).choose(logits.expand(3, -1), torch.zeros(3))
    assert chosen.tolist() == [4, 4, 1]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
@pytest.mark.parametrize(
    "params", [{"temperature": 1e-38}, {"temperature": 1e-50}, {"top_p": 1e-50}, {"min_p": 1.0}], ids=str
)
def test_the_least_values_leave_the_likeliest_token(params, uniform):
    sampler = Sampler.of([SamplingParams(**params)], 5, CPU)
    assert sampler.choose(10 * LOGITS[None], torch.tensor([uniform])).item() == 0


@pytest.fixture
def two_threads():
    """As a test's own process may have it, whatever the others run with."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("vocabulary", [49_152, 128_256])
def test_choose_with_threads_does_not_depend_on_rows(two_threads, vocabulary):
    logits = 2 * torch.randn(24, vocabulary, generator=torch.Generator().manual_seed(0))
    # each row's share ends at one of its tokens, so the last rounding of its sum says whether the next one is kept
    weights = logits.softmax(-1)
    ends = weights.topk(60).values.cumsum(-1)[:, -1].tolist()
    params = [SamplingParams(top_p=end) for end in ends]
    last = torch.full((24,), 1 - 2**-24)  # draws the last token that is kept
    among = Sampler.of(params, vocabulary, CPU).choose(logits, last)
    alone = [Sampler.of([p], vocabulary, CPU).choose(logits[row : row + 1], last[:1]) for row, p in enumerate(params)]
    assert among.tolist() == torch.cat(alone).tolist()


def test_choose_subtracts_the_presence_penalty_once():
    params = [SamplingParams(presence_penalty=0.7, temperature=1.0), SamplingParams(temperature=1.0)]
    even = (torch.arange(10_000) + 0.5) / 10_000
    found = []
    for which in (0, 1):
        sampler = Sampler.of([params[which]] * len(even), 5, CPU)
        chosen = sampler.choose(LOGITS.bfloat16().expand(len(even), -1), even, [[0, 4, 0, 0]] * len(even))
        found.append(torch.bincount(chosen, minlength=5) / len(even))
    penalised = LOGITS - torch.tensor([0.7, 0, 0, 0, 0.7])
    assert torch.allclose(found[0], penalised.softmax(-1), atol=2e-4)
    assert torch.allclose(found[1], LOGITS.softmax(-1), atol=2e-4)


def test_choose_greedy_with_presence_penalty():
    sampler = Sampler.of([SamplingParams(temperature=0, presence_penalty=1.5)] * 2, 5, CPU)
    assert sampler.choose(LOGITS.expand(2, -1), torch.zeros(2), [[], [0]]).tolist() == [0, 4]


class WithoutFloat64(TorchDispatchMode):
    """A device that has no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "cpu" and result.dtype == torch.float64:
            raise TypeError(f"{function}: the device has no float64")
        return result


@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(min_p=0.1), SamplingParams(top_k=20, top_p=0.9), SamplingParams(temperature=0)],
    ids=str,
)
def test_choose_waits_for_the_device_once(monkeypatch, params):
    monkeypatch.setattr(sampling, "_WITHOUT_FLOAT64", {"meta"})
    monkeypatch.setattr(sampling, "_on_cpu", lambda chosen: chosen)
    with FakeTensorMode(), WithoutFloat64():  # tensors without values, which raise where one is asked for
        device = torch.device("meta")
        for batch in ([params, params], [params, SamplingParams()]):
            logits, uniform = torch.rand(2, 1000, device=device), torch.rand(2, device=device)
            chosen = Sampler.of(batch, 1000, device).choose(logits, uniform)
            assert chosen.device.type == "meta"
