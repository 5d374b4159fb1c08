"""Previews of a DNG: rendered from its raw data, so that they show what the raw data now are.

    linear light of the default crop --area means, resize--> preview's size --tone--> 8 bits

Blocks of whole CFA periods are averaged color by color where the preview is that small; otherwise the mosaic is
developed.  Both go by bands of rows, so memory stays a few times that of the preview.  A preview shows the default
crop or, where XMP records one whose aspect ratio fits better, the photographer's; one that fits neither (a 4:3
thumbnail of a 3:2 picture) shows all of it between black bars.

Tone.  A preview that replaces another keeps its look as far as two global steps can: channels are scaled to the old
one's mean colors in linear light, then one monotone curve takes the new picture's quantiles, all channels together, to
the old one's (histogram specification).  Without an old one it is the sRGB curve.

Not replaced: previews inside maker notes, whose bytes stay as the camera wrote them, and those of a compression
or layout rawkit does not write; the latter are named in the notes.

References: DNG 1.7.1 specification, chapter 2 (previews) and chapter 4 (Preview* tags, DefaultCrop*); TIFF 6.0
specification; R. C. Gonzalez, R. E. Woods, "Digital Image Processing", section 3.3 (histogram specification).
"""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from rawkit.errors import UnsupportedRawError
from rawkit.raw import dng_pixels, opcodes
from rawkit.raw.develop import render_linear, srgb_curve, srgb_light
from rawkit.raw.dng_directory import data_extents, directories, find_raw
from rawkit.raw.dng_pixels import DEFLATE, JPEG, UNCOMPRESSED, Layout, integer, numbers
from rawkit.raw.dng_space import Space, other_extents, update_directory
from rawkit.raw.image import AnyRaw, BlackLevel, LinearImage, RawImage
from rawkit.raw.tiff import ASCII, LONG, ByteOrder, Entry, Ifd, TiffFile

SOFTWARE = "rawkit"
_REDUCED = 1  # bit 0 of NewSubfileType
_GRAY, _RGB, _YCBCR = 1, 2, 6  # PhotometricInterpretation
_GRAY_GAMMA_22, _SRGB = 1, 2  # PreviewColorSpace
_QUALITIES = (95, 92, 90, 85, 80)  # of JPEG; the best that fits into the old preview's bytes, else the one below
_QUALITY = 90
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")  # horizontal and vertical factors of Y, Cb, Cr
_BAND = 256  # blocks or pixels of rows rendered at a time
_MARGIN = 12  # pixels around a developed band: two X-Trans periods, and more than any demosaicing here reaches
_STEPS = 65535  # of linear light, in the tone curve's table
_QUANTILES = 1024
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of the sRGB primaries (IEC 61966-2-1)
_ASPECT_SLACK = 2  # pixels by which rounded sizes may miss the aspect ratio
_STALE = (50968, 50969)  # PreviewSettingsName and -Digest: another program's settings
_APPLICATION, _VERSION, _COLOR_SPACE, _DATE = 50966, 50967, 50970, 50971

_XMP = 700
# Camera Raw settings, as attributes or as elements; numbers are shares of the default crop
_XMP_CROP = re.compile(rb"crs:(HasCrop|Crop(?:Top|Left|Bottom|Right|Angle))(?:=\"|>)\s*([-+.0-9A-Za-z]{1,20})")

Crop = tuple[float, float, float, float]  # top, left, height, width in pixels of the active area


def render_small(image: AnyRaw, height: int, width: int, crop: Crop | None = None) -> NDArray[np.float32]:
    """Linear sRGB of (part of) an image at a smaller size, as stored, not turned upright.

    Parameters
    ----------
    image : RawImage or LinearImage
    height, width : int
        Pixels, at most those of the crop.
    crop : (top, left, height, width) or None
        In pixels of the active area; None is all of it.

    Returns
    -------
    (height, width, 3) float32, 1 = saturation, not clipped
    """
    rows, cols = image_size(image)
    top, left, tall, wide = (round(v) for v in crop or (0, 0, rows, cols))
    whole = cut(image, top, left, min(rows, top + tall), min(cols, left + wide))
    block = max(1, min(tall // height, wide // width))
    period = max(image.cfa.shape) if isinstance(image, RawImage) else 1
    reduced = list(_block_means(whole, block // period * period) if block >= period else developed_bands(whole))
    return _resized(np.concatenate(reduced), height, width)


def cut(image: AnyRaw, top: int, left: int, bottom: int, right: int) -> AnyRaw:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of the active area (ends excluded), as stored.

    Levels, black deltas, gain maps and the phase of the color filter array go along; what lies outside is not kept.
    """
    black = image.black
    delta_h = None if black.delta_h is None else black.delta_h[left:right]
    delta_v = None if black.delta_v is None else black.delta_v[top:bottom]
    black = BlackLevel(np.roll(black.pattern, (-top, -left), (0, 1)), delta_h, delta_v)
    lists = opcodes.of_part(image.metadata.opcode_lists, image_size(image), (top, left, bottom, right))
    metadata = replace(image.metadata, orientation=1, opcode_lists=lists)
    if isinstance(image, LinearImage):
        return replace(image, pixels=image.pixels[top:bottom, left:right], black=black, metadata=metadata)
    mosaic = image.mosaic[top:bottom, left:right]
    return replace(
        image, raster=mosaic, active_area=None, cfa=image.cfa.rolled(top, left), black=black, metadata=metadata
    )


def image_size(image: AnyRaw) -> tuple[int, int]:
    """Height and width of the active area [pixels], as stored."""
    height, width = (image.mosaic if isinstance(image, RawImage) else image.pixels).shape[:2]
    return height, width


def _block_means(image: AnyRaw, block: int) -> Iterator[NDArray[np.float32]]:
    """Linear sRGB of the color means of ``block`` x ``block`` pixels, in bands; ragged edges are dropped."""
    height, width = (n // block for n in image_size(image))
    rows, cols = image.cfa.shape if isinstance(image, RawImage) else (1, 1)
    span = image.white_level - float(np.mean(image.black_level))
    for top in range(0, height, _BAND):
        count = min(_BAND, height - top)
        band = cut(image, top * block, 0, (top + count) * block, width * block)
        signal = opcodes.apply_gain_maps(band.signal(), band.metadata.opcode_lists)
        if isinstance(band, LinearImage):
            pixels = signal.reshape(count, block, width, block, -1).mean(axis=(1, 3))
        else:
            means: dict[str, list[NDArray]] = {}
            for (r, c), phase in zip(band.cfa.sites, band.plane_phases, strict=True):
                blocks = signal[r::rows, c::cols].reshape(count, block // rows, width, block // cols)
                means.setdefault(band.phases[phase][0], []).append(blocks.mean(axis=(1, 3)))
            pixels = np.stack([np.mean(means[letter], axis=0) for letter in "RGBY" if letter in means], axis=2)
        applied = replace(band.metadata, opcode_lists={})
        flat = LinearImage(
            pixels=pixels.astype(np.float32), black=BlackLevel.constant(0), white_level=span, metadata=applied
        )
        yield render_linear(flat)


def developed_bands(image: AnyRaw) -> Iterator[NDArray[np.float32]]:
    """Linear sRGB of the active area at full size, in bands of rows, as stored, not turned upright."""
    height, width = image_size(image)
    for top in range(0, height, _BAND):
        start, stop = max(0, top - _MARGIN), min(height, top + _BAND + _MARGIN)
        yield render_linear(cut(image, start, 0, stop, width))[top - start : top - start + _BAND]


def _resized(picture: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    from PIL import Image

    if picture.shape[:2] == (height, width):
        return picture
    # Hamming's window averages without negative weights: no bright and dark seams in linear light.
    planes = [Image.fromarray(np.ascontiguousarray(picture[:, :, k])) for k in range(3)]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.HAMMING)) for p in planes], axis=2)


def encode(linear: NDArray[np.float32], like: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """8-bit picture of linear light.

    Parameters
    ----------
    linear : (H, W, 3) float32, 1 = white; clipped to [0, 1]
    like : (H, W, 3) uint8 or None
        A rendering of the same scene whose tone and color are taken over; None is sRGB.
    """
    look = like if like is not None and like.min() < like.max() else None  # a blank picture has no look
    if look is not None:
        light = srgb_light(look.astype(np.float32) / 255).mean(axis=(0, 1))
        linear = np.clip(linear, 0, 1)
        means = linear.mean(axis=(0, 1))
        if min(*light, *means) > 0:
            gains = light / means
            linear = linear * (gains / gains.max()).astype(np.float32)
    levels = np.rint(np.clip(linear, 0, 1) * np.float32(_STEPS)).astype(np.uint16)
    steps = np.arange(_STEPS + 1)
    curve = 255 * srgb_curve(steps / _STEPS)
    if look is not None:
        share = np.linspace(0, 1, _QUANTILES)
        found, wanted = _quantiles(levels, share), _quantiles(look, share)
        # Equal levels share one output: the mean of what they are to become.
        unique, first = np.unique(found, return_index=True)
        curve = np.interp(steps, unique, np.add.reduceat(wanted, first) / np.diff([*first, _QUANTILES]))
    return np.rint(curve).astype(np.uint8)[levels]


def _quantiles(values: NDArray[np.unsignedinteger], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """``np.quantile`` by counting, which small whole numbers allow.

    Examples
    --------
    >>> _quantiles(np.array([3, 0, 7, 3], np.uint8), np.array([0, 0.5, 0.9])).round(6).tolist()
    [0.0, 3.0, 5.8]
    """
    upto = np.cumsum(np.bincount(values.ravel()))
    rank = share * (values.size - 1)
    below, above = (np.searchsorted(upto, whole, side="right") for whole in (np.floor(rank), np.ceil(rank)))
    return below + (rank - np.floor(rank)) * (above - below)


def replace_previews(source: bytes, image: AnyRaw, notes: list[str], rendered: datetime | None = None) -> bytes:
    """The same DNG with previews of ``image``; sizes, compression and structure stay.

    Parameters
    ----------
    source : bytes
        A DNG.
    image : RawImage or LinearImage
        Its raw data as they will be, active area only for a linear image.
    notes : list of str
        Gains a line for each preview that was left as it is.
    rendered : datetime or None
        PreviewDateTime; None takes SOURCE_DATE_EPOCH, and without that the tag is left out: the same input then
        gives the same bytes.

    Returns
    -------
    bytes
        ``source`` itself where it has no previews.

    Raises
    ------
    UnsupportedRawError
        ``source`` is damaged or no DNG, or the image cannot be rendered.
    """
    tiff = TiffFile.parse(source)
    previews = [
        (ifd, pointer)
        for ifd, pointer in directories(tiff)
        if integer(ifd, 254, 0) & _REDUCED and ifd.first(262) in (_GRAY, _RGB, _YCBCR)
    ]
    if not previews:
        return source
    raw = find_raw(tiff)
    crops = possible_crops(raw.first, raw.ifd, image_size(image))
    done: list[tuple[Ifd, int, list[bytes]]] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        drawn = [(*place, pool.submit(_preview_segments, source, place[0], image, crops)) for place in previews]
    for ifd, pointer, future in drawn:
        try:
            done.append((ifd, pointer, future.result()))
        except UnsupportedRawError as error:
            size = f"{ifd.first(256, 0)} x {ifd.first(257, 0)}"
            notes.append(f"the preview of {size} pixels shows the picture before: {error}")
    changed = [ifd for ifd, _, _ in done]
    own = [extent for ifd in changed for extent in data_extents(ifd)]
    space = Space.freed(source, own, other_extents(tiff, [], changed))
    # IFD 0 last: pointers to the others may lie in it, and it is parsed again with them.
    for ifd, pointer, segments in sorted(done, key=lambda d: d[1] == 4):
        offsets = [space.put(segment, 2) for segment in segments]
        tags = _place_tags(ifd, offsets, segments) | preview_tags(tiff.order, rendered, ifd)
        current = TiffFile.parse(bytes(space.data)).ifd(ifd.offset)
        stale = [*_STALE, *([_DATE] if _DATE not in tags else [])]
        update_directory(space, current, pointer, tags, stale)
    return bytes(space.data)


def possible_crops(first: Ifd, raw: Ifd, size: tuple[int, int]) -> list[Crop]:
    """What a preview may show: the default crop, and the photographer's crop where XMP records an upright one."""
    stated = (*numbers(raw, 50719, (0.0, 0.0)), *numbers(raw, 50720, (0.0, 0.0)))
    left, top, width, height = stated if len(stated) == 4 and np.isfinite(stated).all() else (0.0, 0.0, 0.0, 0.0)
    whole = (top, left, height, width)
    if min(width, height) < 1 or min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
        whole = (0.0, 0.0, float(size[0]), float(size[1]))
    xmp = first.entries[_XMP].data if _XMP in first else b""
    settings = dict(_XMP_CROP.findall(xmp))

    def number(name: bytes, missing: float) -> float:
        try:
            return float(settings.get(name, missing))
        except ValueError:  # no number: no crop that we know of
            return math.nan

    sides = [number(b"Crop" + side, math.nan) for side in (b"Top", b"Left", b"Bottom", b"Right")]
    upright = settings.get(b"HasCrop", b"").lower() == b"true" and number(b"CropAngle", 0.0) == 0
    if not upright or not 0 <= sides[0] < sides[2] <= 1 or not 0 <= sides[1] < sides[3] <= 1:
        return [whole]
    y, x, height, width = whole
    part = (y + sides[0] * height, x + sides[1] * width, (sides[2] - sides[0]) * height, (sides[3] - sides[1]) * width)
    return [whole, part]


def preview_tags(order: ByteOrder, rendered: datetime | None, ifd: Ifd | None = None) -> dict[int, Entry]:
    """PreviewApplicationName, -Version, -ColorSpace and, when known, -DateTime."""
    import rawkit

    gray = ifd is not None and ifd.first(262) == _GRAY
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if rendered is None and epoch:
        rendered = datetime.fromtimestamp(int(epoch), UTC)
    tags = [
        Entry.make(_APPLICATION, ASCII, SOFTWARE, order),
        Entry.make(_VERSION, ASCII, rawkit.__version__, order),
        Entry.make(_COLOR_SPACE, LONG, _GRAY_GAMMA_22 if gray else _SRGB, order),
    ]
    if rendered is not None:
        tags.append(Entry.make(_DATE, ASCII, rendered.isoformat(timespec="seconds"), order))
    return {entry.tag: entry for entry in tags}


def _place_tags(ifd: Ifd, offsets: list[int], segments: list[bytes]) -> dict[int, Entry]:
    """Offsets and sizes of the segments, in the tags that held them."""
    where, sizes = (324, 325) if 322 in ifd else (273, 279)
    values = {where: offsets, sizes: [len(s) for s in segments]}
    return {tag: Entry.make(tag, LONG, v, ifd.order) for tag, v in values.items()}


def _preview_segments(source: bytes, ifd: Ifd, image: AnyRaw, crops: list[Crop]) -> list[bytes]:
    """The new strips or tiles of one preview."""
    layout = Layout.from_ifd(ifd, len(source))
    photometric = integer(ifd, 262, -1)
    color_jpeg = layout.compression == JPEG and layout.samples == 3
    plain = layout.compression in (UNCOMPRESSED, JPEG, DEFLATE) and layout.predictor in (1, 2)
    fits = layout.samples == (1 if photometric == _GRAY else 3) and (photometric == _YCBCR) == color_jpeg
    if not (plain and fits) or layout.is_float or layout.bits != 8 or layout.planar:
        raise UnsupportedRawError(
            f"{layout.samples} samples of {layout.bits} bits, compression {layout.compression}, "
            f"PhotometricInterpretation {photometric} is a form rawkit does not write."
        )
    old = dng_pixels.decode(source, ifd)
    crop = min(crops, key=lambda c: abs(np.log(c[3] * layout.height / (c[2] * layout.width))))  # nearest aspect ratio
    old = old if old.ndim == 3 else np.repeat(old[:, :, None], 3, axis=2)
    picture = fitted(image, layout.height, layout.width, crop, old)
    if photometric == _GRAY:
        picture = np.rint(picture @ _LUMINANCE).astype(np.uint8)[:, :, None]
    segments = []
    for top, left, _, offset, count in layout.segments():
        rows = layout.tile_height if layout.tiled else min(layout.tile_height, layout.height - top)
        part = picture[top : top + rows, left : left + layout.tile_width]
        pad = (rows - part.shape[0], layout.tile_width - part.shape[1])
        part = np.pad(part, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
        segments.append(_encoded(part, layout, source[offset : offset + count]))
    return segments


def fitted(
    image: AnyRaw, height: int, width: int, crop: Crop | None, like: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """(height, width, 3) sRGB picture of the crop, between black bars where the aspect ratio differs.

    Parameters
    ----------
    like : (height, width, 3) uint8 or None
        The picture this one replaces.
    """
    tall, wide = (crop[2], crop[3]) if crop else image_size(image)
    scale = min(height / tall, width / wide)
    rows, cols = max(1, round(tall * scale)), max(1, round(wide * scale))
    rows, cols = (full if full - part <= _ASPECT_SLACK else part for full, part in ((height, rows), (width, cols)))
    top, left = (height - rows) // 2, (width - cols) // 2
    inner = (slice(top, top + rows), slice(left, left + cols))
    picture = np.zeros((height, width, 3), np.uint8)
    picture[inner] = encode(render_small(image, rows, cols, crop), None if like is None else like[inner])
    return picture


def _encoded(part: NDArray[np.uint8], layout: Layout, old: bytes) -> bytes:
    """One strip or tile in the layout's compression."""
    if layout.compression == JPEG:
        return _jpeg_like(part, old)
    if layout.predictor == 2:
        part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1)  # modulo 256
    return zlib.compress(part.tobytes()) if layout.compression == DEFLATE else part.tobytes()


def _jpeg_like(picture: NDArray[np.uint8], old: bytes) -> bytes:
    """JPEG with the old one's chroma sampling, in as many bytes if that can be had at a good quality."""
    sampling = _chroma_sampling(old) if picture.shape[2] == 3 else 0
    for quality in _QUALITIES:
        data = jpeg(picture, quality, sampling)
        if len(data) <= len(old):
            return data
    return jpeg(picture, _QUALITY, sampling)


def _chroma_sampling(data: bytes) -> int:
    """How a JPEG of three components samples chroma: 0, 1, 2 is 4:4:4, 4:2:2, 4:2:0.

    From the frame header: Pillow takes a preview of more than 179 megapixels for an attack.
    """
    at = dng_pixels.frame_header(data) + 10  # of each component: number, sampling factors, quantization table
    factors = bytes(data[at + 1 : at + 9 : 3])
    if factors not in _SAMPLINGS:
        raise UnsupportedRawError("a JPEG whose chroma sampling is none of 4:4:4, 4:2:2 and 4:2:0.")
    return _SAMPLINGS.index(factors)


def jpeg(picture: NDArray[np.uint8], quality: int = _QUALITY, sampling: int = 0) -> bytes:
    """Baseline JPEG of (H, W, 3) or (H, W, 1); sampling 0, 1, 2 is 4:4:4, 4:2:2, 4:2:0."""
    from PIL import Image

    out = io.BytesIO()
    flat = picture[:, :, 0] if picture.shape[2] == 1 else picture
    Image.fromarray(flat).save(out, "JPEG", quality=quality, subsampling=sampling)
    return out.getvalue()
