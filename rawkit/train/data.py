"""Clean light in, training pairs out: everything random is a function of (seed, step, rank).

Clean pictures are linear light l in [0, 1].  A batch of crops becomes raw signal on the device:

    flips and turns of the crop                        before mosaicking, so the Bayer phase is always RGGB
    u = clip(e N M l (n / max n), 0, 1)                exposure e, camera matrix M (rows sum to 1), neutral n
    planes R, Gr, Gb, B of u, times full scale F       expected photoelectrons
    x = round(K (Poisson(F u) + read noise)) [DN]      Tukey-lambda, row, shading and offset parts; one DN grid

The network sees the stabilized picture D (``rawkit.sensor.transforms``) under assumed parameters: the true ones
divided by s^2, and off by a few percent.  Then D carries noise of deviation s, and a plane of constant s tells it: that
plane is the strength control.

Cameras: half of the samples take K and read noise from calibrated cameras' tables, half from a physical range.

References
----------
Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019 (matrices and ranges of white balance).
Wei et al., "A physics-based noise formation model for extreme low-light raw denoising", CVPR 2020 (read noise).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rawkit.nn.raw_planes import LEVELS, network_input, stabilized
from rawkit.noise.standard_scene import PICTURE_SUFFIXES
from rawkit.noise.unprocess import BROOKS_2019, linear_from_srgb
from rawkit.raw.develop import XYZ_FROM_SRGB, srgb_curve
from rawkit.train.procedural import procedural_picture


@dataclass(frozen=True)
class NoiseRange:
    """Ranges from which the noise of a sample is drawn.

    Parameters
    ----------
    full_scale : electrons at white, log-uniform; 1e5 is a low ISO, 100 is ISO 12,800 of a telephone
    read_pixel : e-, log-uniform: read noise before the gain
    read_converter : DN, log-uniform: read noise after it
    bits : resolutions drawn
    calibrated : part of the samples whose K and read noise come from calibrated cameras
    row, shading, offset : largest row noise, shading residue and black-level error, over the read noise
    tukey_lambda : shapes of the read noise; 0.14 is nearly Gaussian, negative has heavy tails
    mismatch : standard deviation of ln(assumed / true) for K and for read variance
    level : range of the noise level s, log-uniform
    varied_level : part of the samples with s other than 1
    quieter : part of the samples with less noise than assumed, down to none: nothing may be made up where all is clean
    """

    full_scale: tuple[float, float] = (40.0, 60_000.0)
    read_pixel: tuple[float, float] = (0.7, 6.0)
    read_converter: tuple[float, float] = (0.3, 3.0)
    bits: tuple[int, ...] = (10, 12, 14)
    calibrated: float = 0.5
    row: float = 0.3
    shading: float = 0.3
    offset: float = 0.1
    tukey_lambda: tuple[float, float] = (-0.25, 0.25)
    mismatch: tuple[float, float] = (0.03, 0.06)
    level: tuple[float, float] = LEVELS
    varied_level: float = 0.25
    quieter: float = 0.1


def camera_table(profiles: Sequence[Path], *, leave_out: Sequence[str] = ()) -> NDArray[np.float64]:
    """(N, 3) full scale [e-], read noise [e-], K [DN/e-] of every calibrated ISO of camera profiles.

    Parameters
    ----------
    leave_out : models, or stems of files, not to be used
    """
    rows = []
    for path in profiles:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("model") in leave_out or path.stem in leave_out:
            continue
        white = document.get("white_level") or 2.0 ** document["bit_depth"] - 1
        black = np.mean(document.get("black_level") or 0.0)
        for entry in document["noise"]:
            gain, var = float(np.mean(entry["system_gain"])), float(np.mean(entry["read_var"]))
            rows.append(((white - black) / gain, math.sqrt(var) / gain, gain))
    if not rows:
        raise ValueError(
            "no camera profiles in the folder of the recipe, or all of them left out; name a folder that holds some."
        )
    return np.array(rows)


class Pictures:
    """Clean pictures: photographs of a folder, mixed with procedural ones.

    Parameters
    ----------
    folder : Path
        Photographs, sRGB, 8 bit; all of them are decoded into memory (3 bytes a pixel).
    procedural : float, 0 to 1
        Part of the crops taken from procedural pictures.
    pool : int
        Procedural pictures in memory; the oldest is replaced every ``renew`` steps.
    """

    def __init__(
        self, folder: Path | str, *, procedural: float, seed: int, pool: int = 16, pool_size: int = 768, renew: int = 60
    ) -> None:
        files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        if not files and procedural < 1:
            raise ValueError(f"no photographs in {folder}; give a folder of {', '.join(PICTURE_SUFFIXES)} files.")
        self.photographs = [np.asarray(Image.open(p).convert("RGB")) for p in files]
        area = np.array([p.shape[0] * p.shape[1] for p in self.photographs], np.float64)
        self._chance = np.sqrt(area) / np.sqrt(area).sum() if files else area
        self.procedural, self.seed, self.pool_size, self.renew = procedural, seed, pool_size, renew
        self._pool: list[NDArray[np.uint8] | None] = [None] * pool
        self._drawn = [-1] * pool

    def crops(self, step: int, count: int, size: int, *, rank: int = 0) -> NDArray[np.uint8]:
        """(count, size, size, 3) uint8 sRGB; of two candidates of a photograph mostly the busier one."""
        rng = np.random.default_rng((self.seed, step, rank, 2))
        out = np.empty((count, size, size, 3), np.uint8)
        for i in range(count):
            picture = (
                self._procedural(step, int(rng.integers(len(self._pool)))) if rng.uniform() < self.procedural else None
            )
            tries = [self._cut(rng, picture, size) for _ in range(2 if picture is None and rng.uniform() < 0.75 else 1)]
            crop = max(tries, key=_busyness)
            crop = np.rot90(crop, int(rng.integers(4)))
            out[i] = crop[:, ::-1] if rng.uniform() < 0.5 else crop
        return out

    def _cut(self, rng: np.random.Generator, picture: NDArray[np.uint8] | None, size: int) -> NDArray[np.uint8]:
        if picture is None:
            picture = self.photographs[int(rng.choice(len(self.photographs), p=self._chance))]
        if min(picture.shape[:2]) < size:
            picture = np.pad(picture, [(0, max(0, size - n)) for n in picture.shape[:2]] + [(0, 0)], mode="reflect")
        top, left = (int(rng.integers(n - size + 1)) for n in picture.shape[:2])
        return picture[top : top + size, left : left + size]

    def _procedural(self, step: int, slot: int) -> NDArray[np.uint8]:
        """Picture of a slot at a step: each slot is renewed in turn, whatever step training resumed from."""
        turn = (step // self.renew + len(self._pool) - 1 - slot) // len(self._pool)
        if self._drawn[slot] != turn or self._pool[slot] is None:
            index = turn * len(self._pool) + slot
            light = procedural_picture(self.seed, index, self.pool_size, colors=self._colors(index))
            self._pool[slot] = np.round(255 * srgb_curve(light)).astype(np.uint8)
            self._drawn[slot] = turn
        return self._pool[slot]  # pyright: ignore[reportReturnType]

    def _colors(self, index: int) -> NDArray[np.float32] | None:
        """Pixels of a photograph, for leaves to take their colors from."""
        if not self.photographs:
            return None
        picture = self.photographs[index % len(self.photographs)]
        pixels = picture[:: max(1, picture.shape[0] // 50), :: max(1, picture.shape[1] // 50)].reshape(-1, 3)
        return linear_from_srgb(pixels / np.float32(255))


def _busyness(crop: NDArray[np.uint8]) -> float:
    green = crop[::2, ::2, 1].astype(np.float32)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def linear_of_srgb(encoded: Tensor) -> Tensor:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def mosaic_planes(light: Tensor) -> Tensor:
    """(B, 3, 2h, 2w) camera color to (B, 4, h, w) planes R, Gr, Gb, B of an RGGB array."""
    red, green, blue = light[:, 0], light[:, 1], light[:, 2]
    planes = (red[:, ::2, ::2], green[:, ::2, 1::2], green[:, 1::2, ::2], blue[:, 1::2, 1::2])
    return torch.stack(planes, 1)


@dataclass(frozen=True)
class Sample:
    """A batch of training pairs, ``given`` and ``mean`` as ``network_input`` makes them.

    Parameters
    ----------
    given : (B, 13, h, w)
    mean : (B, 4, h, w) to be added to the network's output
    target : (B, 4, h, w) stabilized clean planes
    level : (B, 1, 1, 1) noise level s
    electrons : (B, 1, 1, 1) assumed full scale [e-]
    read_var : (B, 1, 1, 1) assumed read variance [e-^2]
    balance : (B, 3, 1, 1) white balance factors of R, G, B
    """

    given: Tensor
    mean: Tensor
    target: Tensor
    level: Tensor
    electrons: Tensor
    read_var: Tensor
    balance: Tensor


def draw_batch(
    crops: Tensor, cameras: Tensor, noise: NoiseRange, generator: torch.Generator, host: np.random.Generator
) -> Sample:
    """Simulated captures of sRGB crops.

    Parameters
    ----------
    crops : (B, 2h, 2w, 3) uint8, on the device
    cameras : (N, 3) as ``camera_table``
    generator : on the device, draws per-pixel numbers
    host : draws per-sample numbers
    """
    batch, device = crops.shape[0], crops.device

    def per_sample(values: NDArray) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=device).view(batch, -1, 1, 1)

    light = linear_of_srgb(crops.permute(0, 3, 1, 2).float() / 255)
    matrices, balance = zip(*(_camera_color(host) for _ in range(batch)), strict=True)
    matrix = torch.as_tensor(np.stack(matrices).astype(np.float32), device=device)
    exposure = per_sample(np.exp(host.uniform(math.log(0.08), math.log(1.3), batch)))
    color = torch.einsum("bij,bjhw->bihw", matrix, light) * exposure
    planes = mosaic_planes(color.clamp(0, 1))

    full_scale, read, gain = _draw_cameras(cameras, noise, host, batch)
    level = np.where(host.uniform(size=batch) < noise.varied_level, _log_uniform(host, noise.level, batch), 1.0)
    expected = planes * per_sample(full_scale)
    captured = _capture(expected, per_sample(full_scale), per_sample(read), per_sample(gain), noise, generator, host)

    share = np.where(host.uniform(size=batch) < noise.quieter, host.uniform(size=batch), 1.0)
    captured = expected + per_sample(share) * (captured - expected)

    slip = np.exp(host.normal(0, noise.mismatch[0], batch)), np.exp(host.normal(0, noise.mismatch[1], batch))
    # assumed K is K_true slip / s^2: one assumed electron is s^2 / slip true ones
    ratio = per_sample(level**2 / slip[0])
    assumed_var = per_sample(slip[1] * read**2 + 1 / (12 * gain**2)) * ratio**2 / per_sample(level**2)
    y, y_clean = captured * ratio + assumed_var, expected * ratio + assumed_var
    s = per_sample(level)
    given, mean = network_input(y, s)
    electrons = per_sample(full_scale) * ratio
    return Sample(given, mean, stabilized(y_clean), s, electrons, assumed_var, per_sample(np.stack(balance)))


def _camera_color(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """sRGB to camera color with its white balance left in, and the factors that would take it out."""
    weights = rng.dirichlet(np.ones(len(BROOKS_2019.matrices)))
    matrix = np.tensordot(weights, np.array(BROOKS_2019.matrices), 1) @ XYZ_FROM_SRGB
    matrix /= matrix.sum(1, keepdims=True)
    gains = np.array([rng.uniform(1.2, 2.6), 1.0, rng.uniform(1.2, 2.6)])
    return matrix / gains[:, None], gains


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], count: int) -> NDArray[np.float64]:
    return np.exp(rng.uniform(math.log(limits[0]), math.log(limits[1]), count))


def _draw_cameras(
    cameras: Tensor, noise: NoiseRange, rng: np.random.Generator, count: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Full scale [e-], read noise [e-] and K [DN/e-] of each sample."""
    full_scale = _log_uniform(rng, noise.full_scale, count)
    gain = (2.0 ** rng.choice(noise.bits, count) - 1) / full_scale
    read = np.hypot(_log_uniform(rng, noise.read_pixel, count), _log_uniform(rng, noise.read_converter, count) / gain)
    known = cameras.cpu().numpy()[rng.integers(len(cameras), size=count)] * np.exp(rng.normal(0, 0.15, (count, 3)))
    use = rng.uniform(size=count) < noise.calibrated
    return (
        np.where(use, known[:, 0], full_scale),
        np.where(use, known[:, 1], np.minimum(read, 0.2 * full_scale)),
        np.where(use, known[:, 2], gain),
    )


def _capture(
    expected: Tensor,
    full_scale: Tensor,
    read: Tensor,
    gain: Tensor,
    noise: NoiseRange,
    generator: torch.Generator,
    host: np.random.Generator,
) -> Tensor:
    """Electrons as stored: Poisson, read noise of several kinds, one DN grid, cut at white.  Negatives are kept."""
    batch, planes, height, width = expected.shape
    device = expected.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def share(most: float, chance: float) -> Tensor:
        value = host.uniform(0, most, batch) * (host.uniform(size=batch) < chance)
        return torch.as_tensor(value.astype(np.float32), device=device).view(-1, 1, 1, 1)

    signal = torch.poisson(expected, generator=generator)
    shape = torch.as_tensor(host.uniform(*noise.tukey_lambda, batch).astype(np.float32), device=device).view(
        -1, 1, 1, 1
    )
    row = normal(batch, 2, height, 1)[:, [0, 0, 1, 1]] * share(
        noise.row, 0.5
    )  # a sensor row holds R and Gr, or Gb and B
    low = F.interpolate(normal(batch, planes, 3, 3), (height, width), mode="bilinear", align_corners=True)
    slow = low * share(noise.shading, 0.3) + normal(batch, planes, 1, 1) * share(noise.offset, 0.3)
    read_noise = tukey_unit(torch.rand(expected.shape, generator=generator, device=device), shape) + row + slow
    stored = torch.round((signal + read * read_noise) * gain) / gain
    return stored.minimum(full_scale)


def tukey_unit(p: Tensor, shape: Tensor) -> Tensor:
    """Quantiles of the Tukey-lambda law scaled to unit variance, p uniform in (0, 1).

    Q(p) = (p^l - (1 - p)^l) / l,    var = 2/l^2 (1/(1 + 2l) - Gamma(1 + l)^2 / Gamma(2 + 2l)),    l > -1/2
    """
    law = torch.where(shape.abs() < 1e-3, torch.full_like(shape, 1e-3), shape).double()
    var = 2 / law**2 * (1 / (1 + 2 * law) - torch.exp(2 * torch.lgamma(1 + law) - torch.lgamma(2 + 2 * law)))
    law, deviation = law.float(), var.sqrt().float()
    p = p.clamp(1e-6, 1 - 1e-6)
    return (torch.exp(law * p.log()) - torch.exp(law * (1 - p).log())) / (law * deviation)
