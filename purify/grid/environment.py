"""What a reader needs to judge or repeat a number: machine, versions, revision, time and memory."""

import platform
import resource
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from purify.budget import Precision
from purify.hardware import device, resolve_precision

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "numpy", "purify-lm")


def environment(precision: Precision) -> dict[str, Any]:
    """Describe machine, versions, revision and time; the memory peak is that since `forget_peak`."""
    gpu = device().type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "precision": resolve_precision(precision),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "revision": _revision(),
        "peak_memory_mib": _peak_mib(),
        **({"peak_gpu_memory_mib": torch.cuda.max_memory_allocated() // 2**20} if gpu else {}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def forget_peak() -> None:
    """Begin a new measurement of peak memory, where the system can: on Linux, and on GPUs."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_mib() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


@cache
def _processor() -> str:
    names: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def _revision() -> str:
    """The project's git revision, with a + if the tree was changed; empty outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", str(here.parent)) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
