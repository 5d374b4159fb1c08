"""What every training run shares: state, schedule, average, checkpoints, log.

A run is a pure function of its recipe: data and noise of step t are drawn with keys (seed, t, rank), so a run that is
stopped and resumed goes on exactly as if it had not been.  Checkpoints are safetensors, like weights.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rawkit.errors import WeightsError
from rawkit.nn.weights import load_tensors, save_tensors


@dataclass
class TrainState:
    """Network, its running average, the optimizer, and how far they are.

    The average of the weights, a += (1 - decay_t) (w - a) with decay_t = min(decay, (1 + t) / (10 + t)), is what is
    validated and shipped.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW
    decay: float
    step: int = 0
    seconds: float = 0.0

    @torch.no_grad()
    def update_average(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for ours, theirs in zip(self.average.parameters(), self.network.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)

    def save(self, path: Path | str, recipe: Mapping[str, Any]) -> None:
        """Everything needed to go on, in one safetensors file that replaces the last one whole."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, parameter in enumerate(self.optimizer.param_groups[0]["params"]):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
        header = {
            "architecture": "training state",
            "step": str(self.step),
            "seconds": repr(self.seconds),
            "recipe": json.dumps(dict(recipe), sort_keys=True),
        }
        save_tensors(path, tensors, header, overwrite=True)

    def load(self, path: Path | str) -> dict[str, Any]:
        """Take up a saved state; returns the recipe it was made with.

        Raises
        ------
        WeightsError
            Not a training state, or one of another network.
        """
        tensors, header = load_tensors(path)
        if header.get("architecture") != "training state":
            raise WeightsError(f"{Path(path).name} holds {header.get('architecture')}, not a training state to resume.")
        try:
            for prefix, module in (("network.", self.network), ("average.", self.average)):
                module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        except RuntimeError as error:
            raise WeightsError(
                f"{Path(path).name} belongs to another network: {str(error).splitlines()[-1].strip()}"
            ) from None
        parameters = self.optimizer.param_groups[0]["params"]
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                parameter = parameters[int(index)]
                moved = value if key == "step" else value.to(parameter)
                self.optimizer.state[parameter][key] = moved
        self.step, self.seconds = int(header["step"]), float(header["seconds"])
        return json.loads(header["recipe"])


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, decay: float) -> float:
    """Linear warm-up, a plateau, and a cosine to zero over the last part ``decay`` of the run.

    The plateau makes a run that is lengthened later go on from any checkpoint before the decay.

    Examples
    --------
    >>> [round(learning_rate(s, peak=1.0, warmup=10, steps=100, decay=0.5), 3) for s in (0, 9, 30, 75, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    start = steps * (1 - decay)
    if step < warmup:
        return peak * (step + 1) / warmup
    if step < start:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(steps - start, 1))))


@dataclass(frozen=True)
class Team:
    """This process among the processes of a run started by torchrun; alone otherwise."""

    rank: int
    size: int

    @classmethod
    def join(cls, device: torch.device) -> Team:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1 and device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(int(os.environ.get("RANK", "0")), size)

    @torch.no_grad()
    def average_gradients(self, network: nn.Module) -> None:
        """Mean of all processes' gradients; every process gets the same."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def any(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device="cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(votes)
        return bool(votes.item())


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request that is asked for between two steps; a second one interrupts.

    Yields a function that tells whether there was one.  Outside the main thread signals stay as they are.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Log:
    """Appends one JSON object per line."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def write(self, **entry: Any) -> None:
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in entry.items()}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(rounded) + "\n")
