"""Where networks run."""

from __future__ import annotations

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
