"""The render: neutral is gray, colors keep their places, smooth pictures survive the mosaic."""

import struct

import numpy as np
import pytest

from rawkit.errors import UnsupportedRawError
from rawkit.raw.develop import (
    demosaic,
    demosaic_bayer,
    develop,
    gray_world,
    render_linear,
    srgb_curve,
    srgb_from_camera,
)
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.raw.opcodes import apply_gain_maps, of_part
from rawkit.raw.preview import render_small
from rawkit.raw.read import read_raw

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
XTRANS = "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"
CAMERA = np.array([[0.7309, -0.1403, -0.0519], [-0.8474, 1.6008, 0.2622], [-0.2433, 0.2826, 0.8064]])  # a D5000's
WHITE, BLACK = 4000.0, 100.0


def _letters(cfa, shape):
    return np.tile(np.array(list(cfa.pattern)).reshape(cfa.shape), (shape[0], shape[1]))[: shape[0], : shape[1]]


def _mosaic(rgb, pattern, **metadata):
    """A mosaic of camera colors (H, W, 3) in [0, 1]."""
    cfa = CFA.parse(pattern)
    letters = _letters(cfa, rgb.shape[:2])
    fraction = sum(np.where(letters == c, rgb[..., k], 0) for k, c in enumerate("RGB"))
    raster = (BLACK + fraction * (WHITE - BLACK)).astype(np.float32)
    return RawImage(
        raster=raster, cfa=cfa, black=BlackLevel.constant(BLACK), white_level=WHITE, metadata=Metadata(**metadata)
    )


def _flat(color, shape=(24, 30)):
    return np.broadcast_to(np.asarray(color, float), (*shape, 3))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("pattern", [*BAYER, XTRANS])
def test_the_neutral_color_is_gray_at_every_pixel(pattern, half):
    neutral = np.array([0.5, 1.0, 0.7])
    image = _mosaic(_flat(0.3 * neutral), pattern, as_shot_neutral=tuple(neutral), color_matrices=((21, CAMERA),))
    out = develop(image, half=half)
    assert out.shape == ((12, 15, 3) if half else (24, 30, 3))
    # Balanced, every channel is 0.3 of saturation; gray is invariant under the matrix.
    level = round(255 * float(srgb_curve(np.array(0.3))))
    assert np.abs(out.astype(int) - level).max() <= 1


@pytest.mark.parametrize("pattern", [*BAYER, XTRANS])
def test_saturated_pixels_are_white(pattern):
    image = _mosaic(_flat([1, 1, 1]), pattern, as_shot_neutral=(0.5, 1.0, 0.7), color_matrices=((21, CAMERA),))
    assert develop(image).min() >= 254
    assert develop(image, exposure=0.25).std(axis=2).max() == 0  # darker, and still without a tint


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("pattern", [*BAYER, XTRANS])
def test_channels_keep_their_places(pattern, half):
    for k in range(3):
        color = np.full(3, 0.05)
        color[k] = 0.6
        out = develop(_mosaic(_flat(color), pattern), half=half)
        assert (out.argmax(axis=2) == k).all()


@pytest.mark.parametrize("pattern", BAYER)
def test_demosaicing_is_exact_on_planes_and_close_on_smooth_pictures(pattern):
    y, x = np.mgrid[0:40, 0:44]
    plane = np.stack([0.2 + 0.002 * x + 0.003 * y] * 3, 2)
    smooth = np.stack([0.5 + 0.2 * np.sin(x / 9 + k) * np.cos(y / 11) for k in range(3)], 2)
    cfa = CFA.bayer(pattern)
    letters = _letters(cfa, (40, 44))
    for picture, tolerance in ((plane, 1e-5), (smooth, 0.01)):
        mosaic = sum(np.where(letters == c, picture[..., k], 0) for k, c in enumerate("RGB")).astype(np.float32)
        colors = demosaic_bayer(mosaic, pattern)
        # The filters' gradient terms vanish on planes, not on the mirror image of one.
        assert np.abs(colors - picture)[2:-2, 2:-2].max() < tolerance
        kept = colors[np.arange(40)[:, None], np.arange(44), np.vectorize("RGB".index)(letters)]
        assert np.array_equal(kept, mosaic)


def _opcode(number, data=b"data"):
    return struct.pack(">4I", number, 1 << 24, 0, len(data)) + data


def _gain_map(area, pitch, spacing, origin, gains):
    """A GainMap of plane 0; ``gains`` (points down, points across)."""
    place = struct.pack(">10I", *area, 0, 1, *pitch, *gains.shape)
    return _opcode(9, place + struct.pack(">4dI", *spacing, *origin, 1) + gains.astype(">f4").tobytes())


def _opcode_list(*opcodes):
    return struct.pack(">I", len(opcodes)) + b"".join(opcodes)


def test_demosaicing_leaves_no_opcode_that_names_sites_of_the_mosaic():
    gain_map = _gain_map((0, 0, 9, 9), (2, 2), (1, 1), (0, 0), np.ones((1, 1)))
    radial, warp, bad_pixels = (_opcode(n) for n in (3, 1, 5))
    lists = {"OpcodeList1": _opcode_list(bad_pixels), "OpcodeList2": _opcode_list(gain_map, radial, gain_map)}
    lists["OpcodeList3"] = _opcode_list(warp)
    image = _mosaic(_flat((0.1, 0.2, 0.3)), "RGGB", opcode_lists=lists)
    meta = demosaic(image).metadata
    assert meta.opcode_lists == {"OpcodeList2": _opcode_list(radial), "OpcodeList3": _opcode_list(warp)}
    assert len(meta.notes) == 1
    unchanged = _mosaic(_flat((0.1, 0.2, 0.3)), "RGGB", opcode_lists={"OpcodeList3": _opcode_list(warp)})
    assert demosaic(unchanged).metadata == unchanged.metadata


def _shaded(height, width, cut=(0, 0)):
    """A flat mosaic behind a lens that darkens it, one bilinear law per site, and the maps that undo it."""
    rows, columns = np.mgrid[cut[0] : height, cut[1] : width]
    v, h = (rows + 0.5) / height, (columns + 0.5) / width
    signal, maps = np.empty(rows.shape), []
    for site, (r, c) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        corners = 1 + np.array([[0.1, 0.5], [0.9, 0.2]]) * (site + 1)
        # three points down of a bilinear law: corners at 0 and 1, their mean between
        points = np.array([corners[0], corners.mean(axis=0), corners[1]])
        maps.append(_gain_map((r, c, height, width), (2, 2), (0.5, 1.0), (0.0, 0.0), points))
        law = (1 - v) * (corners[0, 0] * (1 - h) + corners[0, 1] * h) + v * (
            corners[1, 0] * (1 - h) + corners[1, 1] * h
        )
        here = (rows % 2 == r) & (columns % 2 == c)
        signal[here] = 400 / law[here]
    return signal.astype(np.float32), {"OpcodeList2": _opcode_list(*maps)}


def test_gain_maps_undo_the_shading_they_were_made_for():
    signal, lists = _shaded(30, 44)
    assert signal.max() > 1.5 * signal.min()
    np.testing.assert_allclose(apply_gain_maps(signal, lists), 400, rtol=1e-5)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (4, 6), (5, 3)])
def test_gain_maps_of_a_part_are_those_of_the_whole(top, left):
    _, lists = _shaded(30, 44)
    part, _ = _shaded(30, 44, cut=(top, left))
    moved = of_part(lists, (30, 44), (top, left, 27, 40))
    np.testing.assert_allclose(apply_gain_maps(part[: 27 - top, : 40 - left].copy(), moved), 400, rtol=1e-5)


def test_demosaiced_and_shown_pictures_are_unshaded():
    signal, lists = _shaded(64, 96)
    image = RawImage(
        raster=signal + 64, cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(64), white_level=1023,
        metadata=Metadata(opcode_lists=lists),
    )  # fmt: skip
    np.testing.assert_allclose(demosaic(image).signal(), 400, rtol=1e-4)
    gray = np.full((64, 96, 3), 400 / (1023 - 64))
    np.testing.assert_allclose(render_linear(image), gray, rtol=1e-4)
    for size in ((64, 96), (32, 48), (8, 12)):  # developed, and block means
        np.testing.assert_allclose(render_small(image, *size), gray[: size[0], : size[1]], rtol=1e-4)


@pytest.mark.parametrize("change", ["cut", "no points", "no step", "nan"])
def test_a_damaged_gain_map_is_named(change):
    gains = np.full((2, 2), np.nan if change == "nan" else 1.0)
    whole = _gain_map((0, 0, 8, 8), (1, 1), (0 if change == "no step" else 1, 1), (0, 0), gains)
    if change == "no points":
        whole = _gain_map((0, 0, 8, 8), (1, 1), (1, 1), (0, 0), gains[:0])
    if change == "cut":
        whole = _opcode(9, whole[16:-1])
    with pytest.raises(UnsupportedRawError, match="gain map"):
        apply_gain_maps(np.ones((8, 8), np.float32), {"OpcodeList2": _opcode_list(whole)})


@pytest.mark.parametrize("pattern", BAYER)
def test_a_flat_color_is_exact_up_to_the_border(pattern):
    color = np.array([0.7, 0.2, 0.4], np.float32)
    letters = _letters(CFA.bayer(pattern), (9, 11))
    mosaic = color[np.vectorize("RGB".index)(letters)]
    np.testing.assert_allclose(demosaic_bayer(mosaic, pattern), np.broadcast_to(color, (9, 11, 3)), atol=1e-6)


def test_camera_matrix_takes_a_known_color_to_srgb():
    # Light an sRGB color would emit, seen by the camera through C X, with the camera's white as its neutral.
    xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    srgb = np.array([0.5, 0.2, 0.3])
    seen, white = CAMERA @ xyz @ srgb, CAMERA @ xyz @ np.ones(3)
    np.testing.assert_allclose(srgb_from_camera(Metadata(color_matrices=((21, CAMERA),))) @ (seen / white), srgb)
    image = _mosaic(
        _flat(0.5 * seen / white.max()), "RGGB", as_shot_neutral=tuple(white), color_matrices=((21, CAMERA),)
    )
    wanted = 255 * srgb_curve(srgb)
    assert np.abs(develop(image, exposure=2.0)[5, 5] - wanted).max() <= 1


def test_the_matrix_nearest_d65_is_taken():
    other = np.diag([1.0, 2.0, 3.0]) @ CAMERA[::-1]
    one = srgb_from_camera(Metadata(color_matrices=((21, CAMERA),)))
    for entries in (((17, other), (21, CAMERA)), ((20, CAMERA), (17, other)), ((0, other), (21, CAMERA))):
        assert np.array_equal(srgb_from_camera(Metadata(color_matrices=entries)), one)
    with pytest.raises(UnsupportedRawError, match="inverted"):
        srgb_from_camera(Metadata(color_matrices=((21, np.ones((3, 3))),)))


def test_baseline_exposure_and_exposure_multiply():
    image = _mosaic(_flat([0.1, 0.1, 0.1]), "RGGB", baseline_exposure=1.0)
    assert np.array_equal(develop(image, exposure=2.0), develop(_mosaic(_flat([0.4] * 3), "RGGB")))


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the top-left pixel of the sensor is shown (EXIF 3.0, tag 274)
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_orientation(orientation, corner):
    pixels = np.zeros((4, 6, 3), np.uint16)
    pixels[0, 0], pixels[0, -1] = 65535, 30000  # top left white, top right gray
    image = LinearImage(
        pixels=pixels, black=BlackLevel.constant(0), white_level=65535, metadata=Metadata(orientation=orientation)
    )
    out = develop(image)
    assert out.shape[:2] == ((4, 6) if orientation < 5 else (6, 4))
    assert (out[corner] == 255).all()
    top_row_runs_along = 1 if orientation < 5 else 0
    opposite = list(corner)
    opposite[top_row_runs_along] = -1 if corner[top_row_runs_along] == 0 else 0
    assert 150 < out[tuple(opposite)][0] < 200


def test_monochrome_and_linear_images():
    mono = RawImage(
        raster=np.full((8, 8), 0.18, np.float32), cfa=CFA.mono(), black=BlackLevel.constant(0), white_level=1.0
    )
    assert (develop(mono) == 118).all()  # sRGB of 18 % gray: 117.6
    assert develop(mono, half=True).shape == (4, 4, 3)
    linear = LinearImage(pixels=np.zeros((4, 4, 2), np.uint16), black=BlackLevel.constant(0), white_level=1.0)
    with pytest.raises(UnsupportedRawError, match="2 colors"):
        develop(linear)


def test_gray_world_finds_the_cast():
    image = _mosaic(_flat([0.2, 0.4, 0.3]), "GBRG")
    np.testing.assert_allclose(gray_world(image), (0.5, 1, 0.75), rtol=1e-5)
    out = develop(image, neutral=gray_world(image))
    assert np.ptp(out.astype(int), axis=2).max() <= 1
    with pytest.raises(ValueError, match="positive"):
        develop(image, neutral=(0, 1, 1))


@pytest.mark.data
def test_a_real_render_has_no_grid(data_dir):
    image = read_raw(data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng")
    full = develop(image).astype(float).mean(axis=2)
    phases = [full[r::2, c::2].mean() for r in range(2) for c in range(2)]
    assert max(phases) - min(phases) < 0.25  # of 255; with the CFA one column off it is several
    assert abs(develop(image, half=True).mean() - full.mean()) < 1
