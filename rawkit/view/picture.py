"""A part of a raw picture, denoised as it would be within the whole.

Pictures are shown upright, filters work on pixels as they are stored.  A box of the upright picture becomes a box of
stored pixels, is widened by ``MARGIN`` on every side and out to whole CFA periods, denoised, rendered, cut back to
the box and turned upright.

Tolerance.  Filters learn from the tile they work on (``rawkit.restore.tiling``), and the part is another tile than
those of the whole frame: the results differ, as those of two tilings of the whole do, by 0.1 to 0.2 standard deviations
of the noise (rms; classical filter, synthetic scenes and a Nikon D5000 at ISO 200).  ``MARGIN`` is the tiles' overlap,
so that nothing of a part's border is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import ProfileError
from rawkit.raw.develop import gray_world, upright
from rawkit.raw.image import AnyRaw, RawImage
from rawkit.raw.preview import cut, encode, image_size, render_small
from rawkit.report.compare import Comparison, compare_images
from rawkit.restore.denoise import Denoiser
from rawkit.restore.tiling import Progress
from rawkit.sensor.database import FoundNoise

#: Pixels around a part that are denoised with it: the overlap of the filters' tiles.
MARGIN = 64
#: Pixels of the longer side of the overview.
OVERVIEW = 360
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def inside(self, width: int, height: int) -> Box:
        """Moved, and made smaller where it must be, to lie in a picture of that size.

        Examples
        --------
        >>> Box(90, -5, 40, 30).inside(100, 20)
        Box(left=60, top=0, width=40, height=20)
        """
        wide, tall = min(self.width, width), min(self.height, height)
        left, top = min(max(self.left, 0), width - wide), min(max(self.top, 0), height - tall)
        return Box(left, top, wide, tall)

    def rows_columns(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Opened:
    """A raw file and what is known about its noise.

    Parameters
    ----------
    path : Path
    image : RawImage or LinearImage
        Where no neutral color is recorded, that of a gray world stands in for it.
    noise : FoundNoise or None
        None: not known.
    source : str
        Where the noise parameters come from, or why there are none.
    notes : tuple of str
        What reading the file had to say.
    defects : (N, 2) int or None
        Rows and columns of pixels, as stored, that are repaired first.
    """

    path: Path
    image: AnyRaw
    noise: FoundNoise | None
    source: str
    notes: tuple[str, ...] = ()
    defects: NDArray | None = None

    @property
    def width(self) -> int:
        """Of the upright picture."""
        return self._upright_size()[1]

    @property
    def height(self) -> int:
        """Of the upright picture."""
        return self._upright_size()[0]

    def _upright_size(self) -> tuple[int, int]:
        height, width = image_size(self.image)
        return (width, height) if self.image.metadata.orientation in _TURNED else (height, width)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of an image, before and after.

    Parameters
    ----------
    before, after : RawImage or LinearImage
        The box and its margin, as stored; ``after`` None: not denoised.
    inner : Box
        The box within them.
    """

    before: AnyRaw
    after: AnyRaw | None
    inner: Box


def with_neutral(image: AnyRaw) -> AnyRaw:
    """The image, with a gray world's neutral color where none is recorded, so that all its parts render alike."""
    if image.metadata.as_shot_neutral is not None:
        return image
    return replace(image, metadata=replace(image.metadata, as_shot_neutral=gray_world(image)))


def stored_box(box: Box, height: int, width: int, orientation: int) -> Box:
    """The box of stored pixels that ``raw.develop.upright`` turns into ``box``.

    Parameters
    ----------
    box : Box of the upright picture
    height, width : int
        Of the upright picture.
    orientation : int
        EXIF, 1 to 8.

    Examples
    --------
    >>> stored_box(Box(0, 0, 2, 1), height=30, width=20, orientation=6)
    Box(left=0, top=18, width=1, height=2)
    """
    left, top = box.left, box.top
    if orientation in (3, 4, 7, 8):
        top = height - box.bottom
    if orientation in (2, 3, 6, 7):
        left = width - box.right
    if orientation in _TURNED:
        return Box(top, left, box.height, box.width)
    return Box(left, top, box.width, box.height)


def with_margin(box: Box, height: int, width: int, period: tuple[int, int], margin: int = MARGIN) -> Box:
    """``box`` and ``margin`` pixels around it, out to whole CFA periods, within the picture.

    Examples
    --------
    >>> with_margin(Box(71, 10, 20, 20), 200, 200, (2, 2))
    Box(left=6, top=0, width=150, height=94)
    """
    rows, columns = period
    left, top = (max(0, start - margin) // n * n for start, n in ((box.left, columns), (box.top, rows)))
    right = min(width, -(-(box.right + margin) // columns) * columns)
    bottom = min(height, -(-(box.bottom + margin) // rows) * rows)
    return Box(left, top, right - left, bottom - top)


def denoised_part(
    opened: Opened,
    denoiser: Denoiser,
    box: Box,
    *,
    strength: float,
    chroma_strength: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Part:
    """Denoise a part of a picture.

    Parameters
    ----------
    opened : Opened
    denoiser : Denoiser
    box : Box
        Of the upright picture, inside it.
    strength, chroma_strength, workers, progress
        As of ``Denoiser.__call__``.

    Returns
    -------
    Part
        Without ``after`` where the noise is not known.
    """
    image = opened.image
    inner = stored_box(box, opened.height, opened.width, image.metadata.orientation)
    period = image.cfa.shape if isinstance(image, RawImage) else (1, 1)
    outer = with_margin(inner, *image_size(image), period)
    before = cut(image, outer.top, outer.left, outer.bottom, outer.right)
    within = replace(inner, left=inner.left - outer.left, top=inner.top - outer.top)
    if opened.noise is None:
        return Part(before, None, within)
    after = denoiser(
        before,
        opened.noise.params,
        strength=strength,
        chroma_strength=chroma_strength,
        defects=_within(opened.defects, outer),
        workers=workers,
        progress=progress,
    )
    return Part(before, after, within)


def _within(places: NDArray | None, box: Box) -> NDArray | None:
    """Those of (N, 2) rows and columns that lie in ``box``, counted from its corner."""
    if places is None:
        return None
    moved = places - (box.top, box.left)
    return moved[np.all((moved >= 0) & (moved < (box.height, box.width)), axis=1)]


def rendered_part(opened: Opened, part: Part, *, exposure: float) -> Comparison:
    """Pictures of a part, upright and without its margin, and the figures of the part with its margin.

    Parameters
    ----------
    exposure : float
        Multiplies the render.
    """
    after = part.before if part.after is None else part.after
    comparison = compare_images(part.before, after, opened.noise, exposure=exposure)

    def shown(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        inner = picture[part.inner.rows_columns()]
        turned = upright(inner.reshape(*inner.shape[:2], -1), opened.image.metadata.orientation)
        return turned[:, :, 0] if picture.ndim == 2 else turned

    return replace(
        comparison,
        before=shown(comparison.before),
        after=shown(comparison.after),
        residual=shown(comparison.residual),
    )


def overview(image: AnyRaw, longest: int = OVERVIEW) -> NDArray[np.float32]:
    """The whole picture, small and upright.

    Returns
    -------
    (h, w, 3) float32 linear sRGB, 1 = saturation
    """
    height, width = image_size(image)
    if min(height, width) < 1:
        raise ProfileError("the picture has no pixels.")
    shrink = min(1.0, longest / max(height, width))
    small = render_small(image, max(1, round(height * shrink)), max(1, round(width * shrink)))
    return upright(small, image.metadata.orientation)


def exposed(linear: NDArray[np.float32], exposure: float) -> NDArray[np.uint8]:
    """8-bit sRGB of ``overview``."""
    return encode(linear * np.float32(exposure))
