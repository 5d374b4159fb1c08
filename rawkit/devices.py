"""Where PyTorch computes; without PyTorch everything runs on the processor."""

from __future__ import annotations

import os


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
    if name == "cpu":
        return name
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
