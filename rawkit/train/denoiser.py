"""Training of the raw denoiser: one recipe, one straight loop.

Loss, e = prediction - clean in the stabilized domain (1 is one standard deviation of the noise), D clean:

    L = mean( w (sqrt(e^2 + c^2) - c) ) + g mean |gamma(prediction) - gamma(clean)| 2 sqrt(F)

w = (1 - b) + b D / mean(D) moves weight towards bright pixels, where a linear scale sees errors; the second term
compares quarter-size pictures after white balance and the sRGB curve, F the full scale [e-], so that both terms count
in noise deviations.  A network that also predicts the deviation s of its error learns it from the normal law, without
the picture being changed for it (e held fixed):

    L += u mean( ln s + e^2 / (2 s^2) )
"""

from __future__ import annotations

import copy
import dataclasses
import time
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rawkit.devices import keep_freed_memory, pick_device
from rawkit.errors import WeightsError
from rawkit.nn.raw_planes import electrons, network_input
from rawkit.nn.restormer import SIZES, RawRestormer, RestormerConfig
from rawkit.nn.weights import load_network, save_network
from rawkit.noise.standard_scene import SPAN, clean_planes, noisy_planes, pictures_in, psnr, reno10x
from rawkit.resources import bundled_profiles, find_weights
from rawkit.sensor.transforms import from_ksigma, to_ksigma
from rawkit.train.data import (
    NoiseRange,
    Pictures,
    Sample,
    camera_table,
    draw_batch,
)
from rawkit.train.loop import Log, Team, TrainState, learning_rate, stop_requests

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on.

    Parameters
    ----------
    name : of the weights
    network : RestormerConfig
    photographs : folder of clean pictures
    cameras : folder of profiles; "" for the bundled ones
    validation : folder of pictures never trained on; "" for none
    leave_out : cameras not to be used
    begin : weights, by name or path, of a smaller network of the same widths to begin with; "" for none
    procedural : part of the crops from procedural pictures
    procedural_size : edge of a procedural picture [pixels]
    patch : edge of a crop [packed pixels; twice as many mosaic pixels]
    batch : crops per step and process
    steps, warmup, decay : schedule, see ``learning_rate``
    peak_rate, weight_decay, clip : of AdamW and of the gradient's norm
    average : decay of the running average of the weights
    charbonnier, brightness, gamma : c, b, g of the loss
    likelihood : u of the loss, for networks with ``uncertainty``
    precision : "float32" or "bfloat16" (autocast)
    compile : bool
        Let torch.compile build kernels; worth it on a GPU.
    checkpointing : bool
        Recompute blocks: less memory.
    noise : NoiseRange
    save_every, validate_every : seconds between checkpoints, steps between validations
    """

    name: str
    network: RestormerConfig
    photographs: str = ""
    cameras: str = ""
    validation: str = ""
    validation_isos: tuple[float, ...] = (1600.0, 6400.0, 12800.0)
    validation_count: int = 24
    leave_out: tuple[str, ...] = ()
    begin: str = ""
    procedural: float = 0.25
    procedural_size: int = 768
    patch: int = 128
    batch: int = 4
    steps: int = 40_000
    warmup: int = 200
    decay: float = 0.3
    peak_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.999
    charbonnier: float = 0.3
    brightness: float = 0.3
    gamma: float = 0.1
    likelihood: float = 0.02
    precision: str = "float32"
    compile: bool = False
    checkpointing: bool = False
    seed: int = 1
    noise: NoiseRange = field(default_factory=NoiseRange)
    save_every: float = 240.0
    validate_every: int = 1000

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "network": self.network.to_dict()}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Recipe:
        """Inverse of ``to_dict``; ``network`` may be the name of a size, or a table of what differs from a ``size``.

        Raises
        ------
        ValueError
            A name that no recipe has, or a value that does not fit.
        """
        values = dict(document)
        shape = values.pop("network", "fast")
        shape = {"size": shape} if isinstance(shape, str) else shape
        size = shape.get("size") if isinstance(shape, dict) else None
        if size is not None and size not in list(SIZES):
            raise ValueError(f"network {size!r}; there are {', '.join(SIZES)}, or a table of its own.")
        noise = values.pop("noise", {})
        try:
            begin = {} if size is None else SIZES[size].to_dict()
            network = RestormerConfig.from_dict({**begin, **{k: v for k, v in shape.items() if k != "size"}})
            ranges = NoiseRange(**_tuples(noise))
            return cls(network=network, noise=ranges, **_tuples(values))
        except (TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"a recipe does not have that setting ({error}).") from None

    @classmethod
    def read(cls, path: Path | str) -> Recipe:
        """A recipe from a TOML file; folders are relative to the working directory.

        Raises
        ------
        ValueError
            Not TOML, or not a recipe.
        """
        path = Path(path)
        try:
            return cls.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; give a recipe such as models/recipes/fast.toml.") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}: {error}") from None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    device: str = "auto",
    seconds: float | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a denoiser, or go on with it.

    Parameters
    ----------
    out : folder
        Gets ``state.safetensors`` (to resume), ``log.jsonl`` and, at every checkpoint, ``<name>.safetensors``.
    resume : bool
        Go on from the folder's state.  Steps and rates may differ from the recipe it was begun with.
    seconds : float, optional
        Stop, with a checkpoint, after so long.
    progress : callable(step, steps, loss), optional

    Returns
    -------
    Path of the weights.

    Notes
    -----
    Ctrl-C and SIGTERM end the step, write a checkpoint and raise KeyboardInterrupt.  Several processes share a run when
    started by torchrun; each draws its own crops.

    Raises
    ------
    ValueError
        A folder of the recipe holds no pictures or no profiles, or its network cannot begin with the weights it names.
    WeightsError
        The folder has a state and ``resume`` is False; or there is none to resume; or it is of another network.
    """
    if not recipe.photographs and recipe.procedural < 1:
        raise ValueError(f"the recipe {recipe.name} names no photographs; give a folder of clean pictures.")
    if recipe.validation:
        pictures_in(recipe.validation)
    out, where = Path(out), torch.device(pick_device(device))
    threads = torch.get_num_threads()
    if where.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(1)  # two threads wait for each other longer than they work; start two processes
    team = Team.join(where)
    torch.manual_seed(recipe.seed)
    network = RawRestormer(recipe.network, checkpointing=recipe.checkpointing)
    if recipe.begin and not resume:
        _begin_with(network, recipe.begin)
    network = network.to(where, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.peak_rate, (0.9, 0.99), weight_decay=recipe.weight_decay, foreach=True
    )
    state = TrainState(network, copy.deepcopy(network), optimizer, recipe.average)
    state_file, weights = out / "state.safetensors", out / f"{recipe.name}.safetensors"
    if resume:
        state.load(state_file)
    elif state_file.exists():
        raise WeightsError(f"{state_file} is a run already begun; resume it or choose another folder.")
    pictures = Pictures(
        recipe.photographs, procedural=recipe.procedural, seed=recipe.seed, pool_size=recipe.procedural_size
    )
    profiles = sorted(Path(recipe.cameras).glob("*.json")) if recipe.cameras else bundled_profiles()
    cameras = torch.as_tensor(camera_table(profiles, leave_out=recipe.leave_out))
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.jsonl")
    forward = torch.compile(network) if recipe.compile else network
    autocast = recipe.precision == "bfloat16"

    def checkpoint() -> None:
        if team.rank == 0:
            about = {
                "name": recipe.name,
                "step": state.step,
                "train_seconds": round(state.seconds),
                "recipe": recipe.to_dict(),
            }
            state.save(state_file, recipe.to_dict())
            save_network(weights, state.average, about=about, overwrite=True)  # pyright: ignore[reportArgumentType]

    began = last = saved = time.monotonic()
    running = torch.zeros((), device=where)
    counted = 0
    with stop_requests() as asked:
        while state.step < recipe.steps:
            late = seconds is not None and time.monotonic() - began > seconds
            if team.any(late or asked()):
                break
            host = np.random.default_rng((recipe.seed, state.step, team.rank, 3))
            generator = torch.Generator(where).manual_seed(
                zlib.crc32(f"{recipe.seed} {state.step} {team.rank}".encode())
            )
            crops = pictures.crops(state.step, recipe.batch, 2 * recipe.patch, rank=team.rank)
            sample = draw_batch(torch.from_numpy(crops).to(where), cameras, recipe.noise, generator, host)
            with torch.autocast(where.type, torch.bfloat16, enabled=autocast):
                predicted = forward(sample.given)
            loss = _loss(*network.split(predicted.float()), sample, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            team.average_gradients(network)
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
            rate = learning_rate(
                state.step, peak=recipe.peak_rate, warmup=recipe.warmup, steps=recipe.steps, decay=recipe.decay
            )
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            state.step += 1
            state.update_average()
            running += loss.detach()
            counted += 1
            now = time.monotonic()
            state.seconds, last = state.seconds + now - last, now
            if state.step % 50 == 0:
                mean, running, counted = float(running) / counted, torch.zeros_like(running), 0
                if team.rank == 0:
                    log.write(step=state.step, loss=mean, rate=rate, seconds=state.seconds)
                if progress is not None:
                    progress(state.step, recipe.steps, mean)
            if recipe.validation and state.step % recipe.validate_every == 0 and team.rank == 0:
                scores = validate(state.average, recipe, where)  # pyright: ignore[reportArgumentType]
                log.write(step=state.step, **scores)
            if now - saved > recipe.save_every:
                checkpoint()
                saved = time.monotonic()
        checkpoint()
        torch.set_num_threads(threads)
        if asked():
            raise KeyboardInterrupt
    return weights


def _begin_with(network: RawRestormer, weights: str) -> None:
    try:
        network.take_over(load_network(find_weights(weights))[0])
    except ValueError as error:
        raise ValueError(f"the network cannot begin with {weights}: {error}") from None


def _loss(predicted: Tensor, log_sd: Tensor | None, sample: Sample, recipe: Recipe) -> Tensor:
    """See the module."""
    d = sample.mean + predicted
    error = d - sample.target
    mean = sample.target.mean(dim=(1, 2, 3), keepdim=True)
    weight = (1 - recipe.brightness) + recipe.brightness * sample.target / mean
    loss = (weight * ((error**2 + recipe.charbonnier**2).sqrt() - recipe.charbonnier)).mean()
    if recipe.gamma:
        shown, wanted = (_shown(x, sample) for x in (d, sample.target))
        loss = loss + recipe.gamma * (2 * sample.electrons.sqrt() * (shown - wanted).abs()).mean()
    if log_sd is not None:
        loss = loss + recipe.likelihood * (log_sd + error.detach() ** 2 * torch.exp(-2 * log_sd) / 2).mean()
    return loss


def _shown(d: Tensor, sample: Sample) -> Tensor:
    """Stabilized planes as quarter-size pictures: white-balanced, clipped, sRGB curve."""
    u = (electrons(d) - sample.read_var) / sample.electrons
    light = torch.stack((u[:, 0], (u[:, 1] + u[:, 2]) / 2, u[:, 3]), 1) * sample.balance
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


@torch.no_grad()
def validate(network: RawRestormer, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Mean raw PSNR [dB] over a folder of pictures of the standard scene, ``{"psnr_1600": ...}``."""
    network.eval()
    totals = dict.fromkeys(recipe.validation_isos, 0.0)
    files = pictures_in(recipe.validation)
    files = files[:: max(1, len(files) // recipe.validation_count)][: recipe.validation_count]
    for path in files:
        clean = clean_planes(path)
        height, width = (n // recipe.network.multiple * recipe.network.multiple for n in clean.shape[1:])
        clean = clean[:, :height, :width]
        for iso in totals:
            noise = reno10x(iso)
            noisy = noisy_planes(clean, noise, name=path.name, iso=iso)
            y = torch.as_tensor(to_ksigma(noisy, noise), dtype=torch.float32, device=device)[None]
            given, mean = network_input(y, torch.ones(1, 1, 1, 1, device=device))
            picture, _ = network.split(network(given))
            estimate = from_ksigma(electrons(mean + picture)[0].cpu().numpy(), noise)
            totals[iso] += psnr(clean / SPAN, estimate / SPAN) / len(files)
    return {f"psnr_{iso:g}": total for iso, total in totals.items()}
