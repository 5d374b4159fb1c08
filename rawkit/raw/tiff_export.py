"""16-bit linear TIFF: for programs that want plain pixels.

Demosaiced, white-balanced, linear sRGB primaries, 65535 = the raw's saturation.  No tone curve is applied.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rawkit.raw.develop import render_linear
from rawkit.raw.image import AnyRaw
from rawkit.resources import replacing


def write_linear_tiff(image: AnyRaw, path: Path | str, *, overwrite: bool = False) -> None:
    """Write ``image`` as (H, W, 3) uint16 TIFF, upright, losslessly compressed; out-of-gamut colors are clipped.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is false.
    """
    import tifffile

    pixels = np.rint(np.clip(render_linear(image), 0.0, 1.0) * np.float32(65535)).astype(np.uint16)
    with replacing(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(
            temporary, pixels, photometric="rgb", compression="zlib", predictor=True,
            description="linear light, sRGB primaries (IEC 61966-2-1), D65", software="rawkit",
        )  # fmt: skip
