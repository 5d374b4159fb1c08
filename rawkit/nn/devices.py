"""Where networks run."""

from __future__ import annotations

import os

import torch


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        This machine, or its build of PyTorch, has no such device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    here = {"cpu": True, "cuda": cuda, "mps": mps}
    if not here.get(name.split(":")[0], False):
        found = ", ".join(kind for kind, there in here.items() if there)
        raise ValueError(f"there is no device {name!r} for PyTorch here (found: {found}); use device='auto'.")
    return torch.device(name)


def environments(device: str) -> list[dict[str, str]]:
    """Environment variables for processes that share this machine's GPUs, one process for each.

    With ``device`` "cuda", every GPU that this process may use has a process that sees no other; any other device has
    one process, unchanged.
    """
    if device != "cuda":
        return [{}]
    count = torch.cuda.device_count()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(number) for number in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": name.strip()} for name in names[:count]]
