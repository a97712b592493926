"""A GPU that isn't there: tensors that say they are on it, whose numbers the CPU works out.

It is as strict as one: tensors of two devices don't meet, and what is recorded runs again on the same memory, where
nothing may come from outside or be waited for. It says nothing of speed, and its kernel for rows of any lengths is
written here by its documentation.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any

import torch
import torch.nn.attention.varlen
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
_MADE = ("tensor", "zeros", "ones", "arange", "full", "empty")
_FREE = ("view", "reshape", "expand", "transpose", "permute", "unsqueeze", "squeeze", "flatten", "detach", "unbind")
_WAITS = (
    "item",
    "tolist",
    "cpu",
    "nonzero",
    "equal",
    "masked_select",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
)
_PLAIN = ("__set__", "size", "dim", "stride", "numel", "is_floating_point", "is_complex", "requires_grad_")


class Far(torch.Tensor):
    """A tensor on the GPU."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near):
        how = {"dtype": near.dtype, "device": GPU, "strides": near.stride(), "requires_grad": False}
        made = torch.Tensor._make_wrapper_subclass(cls, near.size(), **how)
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Work out what didn't come by the way of functions."""
        assert Elsewhere.entered is not None, f"{func} was called where no GPU is"
        return Elsewhere.entered.computed(func.overloadpacket.__name__, func, args, kwargs or {})


class Elsewhere(TorchFunctionMode):
    """While it is entered, there is a GPU."""

    entered: "Elsewhere | None" = None

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.waits = Counter()
        self.busy = False
        self.stream: object = None  # the usual one
        self.strict: Any = False  # whether waiting is an error
        self._streams: dict[object, object] = {}
        self._recorded: list[Callable[[], None]] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and func.__self__.__name__ in ("T", "mT"):
            return Far(func(args[0].near)) if isinstance(args[0], Far) else func(*args)
        far = any(isinstance(leaf, Far) for leaf in tree_leaves((args, kwargs)))
        there = any(torch.device(leaf).type == "cuda" for leaf in tree_leaves((args, kwargs)) if _names_device(leaf))
        if isinstance(func, FunctionType) or name in _PLAIN or name == "__get__" or not (far or there):
            return func(*args, **kwargs)
        if name == "to" or (name in _MADE and there):
            return self._moved(name, func, args, kwargs)
        return self.computed(name, func, args, kwargs)

    @property
    def is_recording(self):
        """Whether what is called is kept, to be run again."""
        return self._recorded is not None

    @contextmanager
    def recording(self, graph, pool, stream, capture_error_mode):
        """Stand for torch.cuda.graph: while it is entered, its stream is the current one, even after an error."""
        assert self._streams.setdefault(pool, stream) is stream  # what shares memory is in one order
        self.stream = stream
        self._recorded = graph.steps
        try:
            yield
            self.stream = None
        finally:
            self._recorded = None

    def _moved(self, name, func, args, kwargs):
        """Make a tensor on the GPU, bring one there or take it from there, or change its type."""
        devices = [torch.device(leaf) for leaf in tree_leaves((args, kwargs)) if _names_device(leaf)]
        devices += [leaf.device for leaf in args[1:] if isinstance(leaf, torch.Tensor)] if name == "to" else []
        near = self._on_the_cpu(func, args, kwargs)
        on_gpu = devices[0].type == "cuda" if devices else True
        if name == "tensor" or (name == "to" and on_gpu and not isinstance(args[0], Far)):
            self._from_outside(f"{name} from outside")
            if not kwargs.get("non_blocking"):
                self._wait(name)  # as torch does unless it is told not to
        if name == "to" and not on_gpu:
            self._from_outside("to the CPU")
            self._wait(name)
        if name == "to" and near is getattr(args[0], "near", None):
            return args[0]
        return self._kept(name, func, args, kwargs, near) if on_gpu else near

    def computed(self, name, func, args, kwargs):
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Far) and leaf.dim():
                if name in ("copy_", "__setitem__") and leaf is args[-1]:
                    self._from_outside(name)
                    self._wait(name)
                else:
                    raise RuntimeError(f"{name}: expected all tensors to be on the same device, found one on the CPU")
        masks = name in ("__getitem__", "__setitem__") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype is torch.bool for leaf in tree_leaves(args[1])
        )
        if name in _WAITS or masks or (name in ("__getitem__", "__setitem__") and isinstance(args[1], list)):
            self._from_outside(f"waiting ({name})")
            self._wait(name)
        made = self._on_the_cpu(func, args, kwargs)
        return made if name in ("tolist", "item", "cpu") else self._kept(name, func, args, kwargs, made)

    def _on_the_cpu(self, func, args, kwargs):
        def near(leaf):
            if isinstance(leaf, Far):
                return leaf.near
            return torch.device("cpu") if _names_device(leaf) else leaf

        with torch._C.DisableTorchFunction():
            return func(*tree_map(near, args), **tree_map(near, kwargs))

    def _kept(self, name, func, args, kwargs, made):
        """Wrap what was computed, and remember how where it is recorded."""
        if name not in _FREE:
            self.calls[name] += 1
            self.busy |= name != "tensor"
        if self._recorded is not None:

            def again():
                fresh = self._on_the_cpu(func, args, kwargs)
                pairs = zip(tree_leaves(made), tree_leaves(fresh), strict=True)
                for old, new in pairs:  # to where it was: views and what is changed in place is there already
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

            self._recorded.append(again)
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Far) and leaf.near is made:
                return leaf
        return tree_map(lambda leaf: Far(leaf) if isinstance(leaf, torch.Tensor) else leaf, made)

    def _wait(self, what):
        """Wait for what is asked for already: where that is nothing, it is no wait."""
        if self.strict:
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
        self.waits[what] += self.busy
        self.busy = False

    def _from_outside(self, what):
        if self._recorded is not None:
            raise RuntimeError(f"{what}: operation not permitted when stream is capturing")


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self):
        self.steps: list[Callable[[], None]] = []
        self.replays = 0

    def replay(self):
        """Run again what was recorded."""
        self.replays += 1
        Elsewhere.entered.busy = True
        with torch._C.DisableTorchFunction():
            for step in self.steps:
                step()


def by_the_book(query, key, value, begins, slots, max_q, max_k, **how) -> torch.Tensor:
    """Stand for varlen_attn, as its documentation has it: queries are aligned with the end of what is read."""
    used = how["seqused_k"]
    assert {begins.dtype, slots.dtype, used.dtype} == {torch.int32}
    assert how["enable_gqa"] == (query.shape[1] != key.shape[1])
    left, right = how["window_size"]
    out = torch.full_like(query, torch.nan)
    for row in range(len(used)):
        first, last, length = int(begins[row]), int(begins[row + 1]), int(used[row])
        assert last - first <= max_q
        assert max_q > 1 or last - first == 1  # with one token each, the kernel takes their number for that of rows
        assert length <= max_k == int(slots[row + 1] - slots[row])
        place = slice(int(slots[row]), int(slots[row]) + length)
        shared = query.shape[1] // key.shape[1]
        keys, values = (kept[place].repeat_interleave(shared, 1).double() for kept in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[first:last].double(), keys)
        scores *= how["scale"] or 1 / math.sqrt(query.shape[-1])
        own, there = torch.arange(length - (last - first), length)[:, None], torch.arange(length)
        seen = (there <= own + right if right >= 0 else there < length) & (there >= own - left if left >= 0 else True)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", weights, values).to(out.dtype)
    return out


@contextmanager
def elsewhere(monkeypatch) -> Iterator[Elsewhere]:
    """Enter a machine with a GPU."""
    mode = Elsewhere()
    for name, stands in {
        "CUDAGraph": Graph,
        "graph": mode.recording,
        "graph_pool_handle": object,
        "Stream": object,
        "device": lambda device: nullcontext(),
        "get_sync_debug_mode": lambda: mode.strict,
        "set_sync_debug_mode": lambda strict: setattr(mode, "strict", strict),
        "current_stream": lambda: mode.stream,
        "set_stream": lambda stream: setattr(mode, "stream", stream),
        "get_device_capability": lambda device: (9, 0),
        "mem_get_info": lambda device: (1 << 26, 1 << 26),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(
        torch.nn.attention.varlen,
        "varlen_attn",
        lambda *args, **kwargs: mode.computed("varlen_attn", by_the_book, args, kwargs),
    )
    monkeypatch.setattr(Elsewhere, "entered", mode)
    with mode:
        yield mode


def moved(model: Any) -> Any:
    """Bring a model there."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(Far(weight.data), requires_grad=False)
        for name, kept in module._buffers.items():
            if kept is not None:
                module._buffers[name] = Far(kept)
    return model


def _names_device(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf.split(":")[0] in ("cuda", "cpu"))
