"""Where PyTorch computes; without PyTorch everything runs on the processor."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# glibc's mallopt(3): what may stay with the process, from what size blocks come from the system, number of arenas
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8
_KEPT = 2**31 - 1  # bytes


def pick_device(name: str = "auto") -> str:
    """The device of that name; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Parameters
    ----------
    name : "auto", "cpu", "cuda", "cuda:1" or "mps"

    Raises
    ------
    ValueError
        This machine, or its build of PyTorch, has no such device.

    Examples
    --------
    >>> pick_device("cpu")
    'cpu'
    """
    if name == "cpu" or (name == "auto" and not _could_have_gpu()):
        return "cpu"
    try:
        import torch
    except ImportError:
        if name == "auto":
            return "cpu"
        raise ValueError(f"device {name!r} needs torch, which is not installed; use device='cpu'.") from None
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [kind for kind, there in here.items() if there]
    if name == "auto":
        return found[0]
    if name.split(":")[0] not in found:
        raise ValueError(f"there is no device {name!r} for PyTorch here; use auto, {' or '.join(found)}.")
    return name


def _could_have_gpu() -> bool:
    """False where PyTorch can find no GPU, told without loading PyTorch, which takes a second.

    On Linux it needs NVIDIA's driver, a library, or AMD's, a device file; of other systems nothing is told.
    """
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def environments(device: str) -> list[dict[str, str]]:
    """Environment variables for processes that share this machine's GPUs, one process for each.

    With ``device`` "cuda", every GPU that this process may use has a process that sees no other; any other device has
    one process, unchanged; the CPU has none of its own.
    """
    if device != "cuda":
        return [] if device == "cpu" else [{}]
    import torch

    count = torch.cuda.device_count()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(number) for number in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name.strip()} for name in names[:count]]


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, for its next use of it.

    A network on a processor frees and takes megabytes with every layer, and each time the system gives them page by
    page, filled with zeros: a tenth to a third of the network's time.  C libraries other than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _KEPT // 2), (_ARENAS, 1)):
            mallopt(parameter, value)
