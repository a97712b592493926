"""Describe the machine of a measurement: processor, cores, threads and instruction set."""

import os
from pathlib import Path

from hfsynth.record import machine

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""The instructions that matrix products gain from, as /proc/cpuinfo spells them on x86 and on Arm."""


def describe_machine(threads: int | None = None) -> str:
    """Return one line: the device, the threads, and the instructions that torch and the processor have.

    Args:
        threads: The threads of the processes that are measured; default: those of torch in this one.

    >>> describe_machine(threads=2)  # doctest: +SKIP
    'AMD EPYC, 2 cores, 2 threads, torch with AVX2 (processor has avx2)'
    """
    import torch  # not before it is needed: a benchmark that measures memory has none of torch's until then

    threads = threads or torch.get_num_threads()
    capability, flags = torch.backends.cpu.get_cpu_capability(), " ".join(_processor_flags())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    parts = [
        machine(),
        f"{threads} thread{'s' if threads > 1 else ''}",
        f"torch with {capability} (processor has {flags or 'unknown instructions'})",
        *([f"oneDNN limited to {limit}"] if limit else []),
    ]
    return ", ".join(parts)


def _processor_flags() -> list[str]:
    """Return those of `_FLAGS` that the first processor has, on Linux; [] elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in _FLAGS if flag in names]
