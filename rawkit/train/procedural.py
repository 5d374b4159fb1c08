"""Pictures without end: dead leaves with textured leaves, lines and text.

Dead leaves (Lee, Mumford and Huang 2001): opaque shapes of radius r with density ~ r^-3 between two limits cover each
other at random.  The result has the scale invariance, the edges and the occlusions of photographs.  Networks trained
on leaves with textures denoise photographs nearly as well as those trained on photographs (Achddou, Gousseau and
Ladjal 2021).  Lines and text add what neither leaves nor landscapes show: thin parallel strokes.

Pictures are linear light (H, W, 3) float32 in [0, 1], drawn at twice the size and averaged, so that edges have the
width a lens gives them.  A picture is a function of (seed, index) alone.

References
----------
A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images", IJCV 41, 2001.
R. Achddou, Y. Gousseau, S. Ladjal, "Synthetic images as a regularity prior for image restoration neural networks",
SSVM 2021.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_SUPERSAMPLING = 2
_SMALLEST, _LARGEST = 3.0, 400.0  # radii of leaves [pixels before averaging]
_COVERAGE = 6.0  # leaves' area over the picture's area
_TEXTURES = 6
_LETTERS = np.array(list("ABCDEFGHKLMNRSTXYabcdefghknorstuxyz0123456789&%#?-=+"))


def procedural_picture(
    seed: int, index: int, size: int, *, colors: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """A square picture of ``size`` pixels; one in six is text and lines over leaves.

    Parameters
    ----------
    colors : (N, 3), optional
        Linear light that leaves take their colors from, such as pixels of a photograph; muted colors otherwise.
    """
    rng = np.random.default_rng((seed, index, 1))
    edge = size * _SUPERSAMPLING
    if colors is None:
        colors = rng.uniform(0, 1, (64, 1)) ** 2 * np.exp(0.3 * rng.normal(size=(64, 3)))
    picture = _dead_leaves(rng, edge, colors)
    if index % 6 == 0:
        picture = _with_marks(rng, picture)
    blocks = picture.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _dead_leaves(rng: np.random.Generator, edge: int, colors: NDArray[np.floating]) -> NDArray[np.float32]:
    radii = _leaf_radii(rng, edge)
    owner = Image.new("I", (edge, edge), 0)
    draw = ImageDraw.Draw(owner)
    for number, radius in enumerate(radii, start=1):
        x, y = rng.uniform(-0.1 * edge, 1.1 * edge, 2)
        draw.polygon(_outline(rng, x, y, radius), fill=number)
    owners = np.asarray(owner, np.int32)
    count = len(radii) + 1
    leaf_colors = colors[rng.integers(0, len(colors), count)] * np.exp(rng.normal(0, 0.2, (count, 1)))
    amplitude = rng.uniform(0, 0.4, (count, 1)) * (rng.uniform(size=(count, 1)) < 0.7)
    tint = 1 + 0.1 * rng.normal(size=(count, 3))
    textures = np.stack([_texture(rng, edge) for _ in range(_TEXTURES)], -1)
    choice = rng.integers(0, _TEXTURES, count)
    strength = np.take_along_axis(textures, choice[owners][..., None], -1) * amplitude[owners]
    light = leaf_colors[owners] * np.exp(strength * tint[owners])
    ramp = np.linspace(-1, 1, edge)
    shade = np.exp(rng.normal(0, 0.3) * ramp[:, None] + rng.normal(0, 0.3) * ramp)
    return np.clip(light * shade[..., None], 0, 1).astype(np.float32)


def _leaf_radii(rng: np.random.Generator, edge: int) -> NDArray[np.float64]:
    """Radii with density r^-3 whose discs cover the picture several times, in random order."""
    largest = min(_LARGEST, edge / 3)
    smallest = _SMALLEST * rng.uniform(1, 4)
    mean_area = 2 * np.pi * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    count = int(_COVERAGE * (1.2 * edge) ** 2 / mean_area)
    u = rng.uniform(size=min(count, 12_000))
    return (smallest**-2 + u * (largest**-2 - smallest**-2)) ** -0.5


def _outline(rng: np.random.Generator, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """A disc, an ellipse, a polygon or a wavy leaf."""
    kind = rng.integers(4)
    corners = int(rng.integers(3, 7)) if kind == 0 else 8 + int(min(radius, 40))
    angle = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 2 * np.pi)
    length = np.full(corners, radius)
    if kind == 1:
        length = radius * (1 + rng.uniform(0, 0.5) * np.cos(rng.integers(2, 9) * angle))
    across, along = length * np.cos(angle), length * np.sin(angle) * rng.uniform(0.15, 1.0)
    turn = rng.uniform(0, np.pi)
    xs = x + across * np.cos(turn) - along * np.sin(turn)
    ys = y + across * np.sin(turn) + along * np.cos(turn)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _texture(rng: np.random.Generator, edge: int) -> NDArray[np.float32]:
    """A field of unit deviation: noise with a power-law spectrum, or a wavy grating."""
    if rng.uniform() < 0.65:
        slope = rng.uniform(0.3, 2.0)
        fy, fx = np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)
        frequency = np.hypot(fy * rng.uniform(0.4, 2.5), fx)
        frequency[0, 0] = 1.0
        spectrum = np.fft.rfft2(rng.standard_normal((edge, edge))) * frequency**-slope
        spectrum[frequency < 8 / edge] = 0
        field = np.fft.irfft2(spectrum, (edge, edge))
    else:
        yy, xx = np.mgrid[:edge, :edge]
        turn, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(60)))
        bend = rng.uniform(0, 8) * np.sin(2 * np.pi * (yy + xx) / rng.uniform(80, 400))
        field = np.sin(2 * np.pi * (xx * np.cos(turn) + yy * np.sin(turn) + bend) / period)
        if rng.uniform() < 0.5:
            field = np.sign(field)
    return (np.asarray(field, np.float32) / np.float32(field.std() + 1e-9)).astype(np.float32)


def _with_marks(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Letters and strokes drawn over a picture."""
    edge = picture.shape[0]
    out = picture
    for _ in range(int(rng.integers(2, 6))):
        mask = Image.new("L", (edge, edge), 0)
        draw = ImageDraw.Draw(mask)
        x, y = rng.uniform(0, 0.7 * edge, 2)
        if rng.uniform() < 0.6:
            font = ImageFont.load_default(float(rng.uniform(14, 90)))
            lines = ["".join(rng.choice(_LETTERS, int(rng.integers(4, 16)))) for _ in range(int(rng.integers(1, 7)))]
            draw.multiline_text((x, y), "\n".join(lines), fill=255, font=font)
            mask = mask.rotate(float(rng.uniform(-40, 40)), resample=Image.Resampling.BILINEAR)
        else:
            pitch, width = rng.uniform(4, 30), int(rng.integers(1, 8))
            turn, length = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8) * edge
            for k in range(int(rng.integers(3, 30))):
                x0, y0 = x - k * pitch * np.sin(turn), y + k * pitch * np.cos(turn)
                end = (x0 + length * np.cos(turn), y0 + length * np.sin(turn))
                draw.line([(x0, y0), end], fill=255, width=width)
        cover = np.asarray(mask, np.float32)[..., None] / 255
        color = rng.uniform(0, 1, 3) ** 2
        out = out * (1 - cover) + cover * color.astype(np.float32)
    return out.astype(np.float32)
