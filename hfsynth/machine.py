"""What a run ran on: the processor or accelerator, and the versions of what matters for its rows."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "hfsynth", "datasets", "transformers", "torch", "accelerate", "rapidfuzz", "datasketch", "sentence-transformers"
)  # fmt: skip


def machine() -> str:
    """Name the accelerator of this process, or its processor with the number of cores.

    torch is asked only where something has loaded it already: what never did ran on the processor.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cores = os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run's rows depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the processor's own name, as Linux tells it, or what the platform is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
