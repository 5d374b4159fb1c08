"""16-bit linear TIFF: for programs that want plain pixels.

Demosaiced, white-balanced, linear light with the primaries of ITU-R BT.2020, 65535 = the raw's saturation; the ICC
profile that says so is embedded.  No tone curve is applied.  Rec. 2020 holds nearly every surface color a camera sees,
so little is clipped; sRGB primaries are there for programs that ignore profiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from rawkit.raw import icc
from rawkit.raw.develop import upright
from rawkit.raw.image import AnyRaw
from rawkit.raw.preview import developed_bands
from rawkit.resources import replacing

_SPACES = {"rec2020": ("Linear Rec. 2020", icc.REC2020), "srgb": ("Linear sRGB", icc.SRGB)}
_WHITE = 65535


def write_linear_tiff(
    image: AnyRaw, path: Path | str, *, primaries: Literal["rec2020", "srgb"] = "rec2020", overwrite: bool = False
) -> None:
    """Write ``image`` as (H, W, 3) uint16 TIFF with an ICC profile, upright, losslessly compressed.

    Stored value = round(65535 * clip(u, 0, 1)), u: linear light in ``primaries``, 1 = saturation.

    Parameters
    ----------
    primaries : "rec2020" or "srgb"
        Of the file; white is D65.  Colors beyond them and light above saturation are clipped.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is false.
    UnsupportedRawError
        The image has neither 1 nor 3 colors.
    """
    import tifffile

    name, points = _SPACES[primaries]
    matrix = np.linalg.solve(icc.xyz_from_rgb(points), icc.xyz_from_rgb(icc.SRGB)).astype(np.float32)
    bands = [
        np.rint(np.clip(b @ matrix.T, 0, 1) * np.float32(_WHITE)).astype(np.uint16) for b in developed_bands(image)
    ]
    pixels = upright(np.concatenate(bands), image.metadata.orientation)
    with replacing(path, overwrite=overwrite) as temporary:
        tifffile.imwrite(
            temporary, pixels, photometric="rgb", compression="zlib", predictor=True, software="rawkit",
            iccprofile=icc.linear_profile(name, points), description=f"{name}, D65, no tone curve",
        )  # fmt: skip
