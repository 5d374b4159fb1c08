"""Writing DNG: what is read back is what was written, and a rewrite leaves everything else alone."""

import hashlib
import os
import struct
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import rawpy

from rawkit.errors import OutputExistsError, UnsupportedRawError
from rawkit.raw.digest import new_raw_image_digest, raw_image_digest
from rawkit.raw.dng import is_dng, write_dng
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.raw.tiff import (
    ASCII,
    BYTE,
    DOUBLE,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Entry,
    TiffFile,
    serialize_ifd,
)
from rawkit.sensor.params import NoiseParams
from tests import make_dng

XTRANS = CFA.xtrans("GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG")
PHASES = ["RGGB", "GRBG", "GBRG", "BGGR"]


def mosaic(shape, bits=12, seed=1):
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint16)


def raw_image(pattern="RGGB", shape=(70, 92), area=None, **changes):
    cfa = CFA.bayer(pattern)
    image = RawImage(
        raster=mosaic(shape),
        cfa=cfa,
        active_area=area,
        black=BlackLevel.per_phase((64.0, 65.5, 66.25, 68.0), cfa),
        white_level=4000.0,
        metadata=Metadata(
            make="Acme", model="One", as_shot_neutral=(0.5, 1.0, 0.625), color_matrices=((21, np.eye(3) * 0.8),)
        ),
    )
    return replace(image, **changes)


def libraw(path):
    with rawpy.imread(str(path)) as raw:
        pixels = raw.raw_image.copy()
        return pixels[:, :, :3] if pixels.ndim == 3 else pixels, raw.white_level, raw.black_level_per_channel


def raw_ifd(path):
    tiff = TiffFile.parse(path.read_bytes())
    return tiff.ifd(tiff.first_offset), next(
        i for i in tiff.with_sub_ifds() if i.first(254, 0) == 0 and i.first(262) in (32803, 34892)
    )


# ---- fresh files ----


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1), (3, 5)])
@pytest.mark.parametrize("pattern", PHASES)
def test_integer_mosaic_comes_back_exactly_for_every_phase_and_odd_area(tmp_path, pattern, corner):
    top, left = corner
    image = raw_image(pattern, area=(top, left, top + 61, left + 83))
    written = write_dng(image, tmp_path / "a.dng")
    assert (written.form, written.scale, written.saturated) == ("fresh mosaic", 1.0, 0)
    assert written.size == (tmp_path / "a.dng").stat().st_size
    back = read_raw(tmp_path / "a.dng")
    np.testing.assert_array_equal(back.raster, image.raster)
    np.testing.assert_array_equal(libraw(tmp_path / "a.dng")[0], image.raster)
    assert back.cfa == image.cfa
    assert back.active_area == image.active_area
    assert back.black_level == image.black_level  # quarters and halves are exact rationals
    assert back.white_level == image.white_level


def test_values_are_stored_times_the_stated_scale_with_their_levels(tmp_path):
    image = raw_image()
    signal = image.signal() * 0.5 + 7.75  # multiples of 1/8 DN
    image = image.with_signal(signal)
    written = write_dng(image, tmp_path / "a.dng", extra_bits=3)
    assert written.scale == 8
    back = read_raw(tmp_path / "a.dng")
    np.testing.assert_array_equal(back.signal(), signal * 8)  # strength 0: the input times the scale, nothing else
    assert back.white_level == 8 * image.white_level
    assert back.black_level == tuple(8 * b for b in image.black_level)


def test_rounding_is_to_the_nearest_stored_step(tmp_path):
    signal = np.random.default_rng(5).uniform(0, 3000, (70, 92))
    image = raw_image().with_signal(signal)
    scale = write_dng(image, tmp_path / "a.dng").scale
    error = read_raw(tmp_path / "a.dng").raster / scale - image.raster
    assert scale == 4
    assert np.abs(error).max() <= 0.5 / scale
    # Uniform rounding error of one step: variance step^2 / 12, its relative standard error sqrt(0.8 / n).
    assert np.var(error) == pytest.approx(1 / scale**2 / 12, rel=4 * np.sqrt(0.8 / error.size))


@pytest.mark.parametrize(("white", "scale"), [(255.0, 256), (4000.0, 4), (16383.0, 4), (16384.0, 2), (65535.0, 1)])
def test_scale_keeps_white_within_16_bits(tmp_path, white, scale):
    image = raw_image(white_level=white, black=BlackLevel.constant(0))
    image = image.with_signal(np.full((70, 92), white))
    assert write_dng(image, tmp_path / "a.dng").scale == scale
    back = read_raw(tmp_path / "a.dng")
    assert back.white_level == white * scale
    assert back.raster.max() == white * scale


def test_what_does_not_fit_saturates_and_is_counted(tmp_path):
    image = raw_image(black=BlackLevel.constant(0))
    signal = np.full((70, 92), 100.0)
    signal[:2, :5] = -3.0
    signal[9, :7] = 1e6
    written = write_dng(image.with_signal(signal), tmp_path / "a.dng")
    back = read_raw(tmp_path / "a.dng").raster
    assert written.saturated == 17
    assert np.count_nonzero(back == 0) == 10
    assert np.count_nonzero(back == 65535) == 7


def test_black_deltas_are_scaled_too(tmp_path):
    rng = np.random.default_rng(6)
    black = BlackLevel(np.array([[64.0]]), rng.integers(-40, 40, 92) / 8, rng.integers(-40, 40, 70) / 8)
    image = raw_image(black=black).with_signal(np.full((70, 92), 500.0))
    write_dng(image, tmp_path / "a.dng")
    back = read_raw(tmp_path / "a.dng")
    np.testing.assert_array_equal(back.black.delta_h, 4 * black.delta_h)
    np.testing.assert_array_equal(back.black.delta_v, 4 * black.delta_v)
    assert np.abs(back.signal() / 4 - 500).max() <= 0.125


def test_xtrans_mono_and_linear_come_back(tmp_path):
    xtrans = raw_image(raster=mosaic((66, 96)), cfa=XTRANS, black=BlackLevel.constant(256))
    mono = raw_image(raster=mosaic((65, 91)), cfa=CFA.mono(), black=BlackLevel.constant(10))
    for image, name in ((xtrans, "x.dng"), (mono, "m.dng")):
        write_dng(image, tmp_path / name)
        back = read_raw(tmp_path / name)
        assert isinstance(back, RawImage)
        assert back.cfa == image.cfa
        np.testing.assert_array_equal(back.raster, image.raster)
        np.testing.assert_array_equal(libraw(tmp_path / name)[0], image.raster)
    linear = LinearImage(
        pixels=mosaic((65, 91, 3)), black=BlackLevel(np.array([[[8.0, 9.5, 7.0]]])), white_level=4095.0
    )
    written = write_dng(linear, tmp_path / "l.dng")
    assert written.form == "fresh linear"
    back = read_raw(tmp_path / "l.dng")
    assert isinstance(back, LinearImage)
    np.testing.assert_array_equal(back.pixels, linear.pixels)
    np.testing.assert_array_equal(libraw(tmp_path / "l.dng")[0], linear.pixels)
    assert back.black_level == (8.0, 9.5, 7.0)


@pytest.mark.parametrize("shape", [(40, 60, 3), (40, 60)])
def test_normalized_float_stays_float_bit_for_bit(tmp_path, shape):
    values = np.random.default_rng(7).normal(0.4, 0.5, shape).astype(np.float32)  # negatives and above white, too
    if len(shape) == 3:
        image = LinearImage(pixels=values, black=BlackLevel.constant(0), white_level=1.0)
    else:
        image = raw_image(raster=values, black=BlackLevel.constant(0), white_level=1.0)
    assert write_dng(image, tmp_path / "a.dng").scale == 1
    back = read_raw(tmp_path / "a.dng")
    np.testing.assert_array_equal(back.pixels if isinstance(back, LinearImage) else back.raster, values)
    peak = libraw(tmp_path / "a.dng")[0].max()  # LibRaw opens it; it converts floats to 14-bit integers
    assert peak == 16383 or peak == 16382


def test_several_tiles_with_ragged_edges(tmp_path):
    image = raw_image(shape=(531, 1043))
    write_dng(image, tmp_path / "a.dng")
    _, raw = raw_ifd(tmp_path / "a.dng")
    assert len(raw.get(324)) == 6
    assert all(n % 16 == 0 for n in (*raw.get(322), *raw.get(323)))  # TIFF 6.0, section 15
    np.testing.assert_array_equal(libraw(tmp_path / "a.dng")[0], image.raster)


def test_what_the_camera_recorded_is_found_again(tmp_path):
    meta = Metadata(
        make="Acme",
        model="One",
        serial="0815",
        lens="50mm f/1.4",
        datetime="2024-05-06T07:08:09",
        iso=102400.0,
        exposure_time=1 / 125,
        aperture=2.8,
        focal_length=50.0,
        orientation=6,
        as_shot_neutral=(0.5, 1.0, 0.625),
        color_matrices=((17, np.eye(3) * 0.9), (21, np.eye(3) * 0.8)),
        baseline_exposure=-0.35,
    )
    written = write_dng(raw_image(metadata=meta), tmp_path / "a.dng")
    back = read_raw(tmp_path / "a.dng").metadata
    assert written.notes == ()
    for name in ("make", "model", "serial", "lens", "iso", "aperture", "focal_length", "orientation"):
        assert getattr(back, name) == getattr(meta, name), name
    assert back.exposure_time == pytest.approx(1 / 125)
    assert back.datetime == "2024:05:06 07:08:09"
    assert back.baseline_exposure == pytest.approx(-0.35)
    assert back.as_shot_neutral == pytest.approx(meta.as_shot_neutral)
    assert [illuminant for illuminant, _ in back.color_matrices] == [17, 21]
    np.testing.assert_allclose(back.color_matrices[0][1], np.eye(3) * 0.9)
    assert back.unique_camera_model == "Acme One"


@pytest.mark.parametrize("seconds", [1e-9, 1 / 8000, 0.3, 0.9, 1.0, 30.0, 4294.0, 4296.0, 20000.0, 4e9])
def test_any_exposure_time_is_written(tmp_path, seconds):
    meta = Metadata(exposure_time=seconds, as_shot_neutral=(1e9, 1.0, 1.0), color_matrices=((21, 1e7 * np.eye(3)),))
    write_dng(raw_image(metadata=meta), tmp_path / "a.dng")
    back = read_raw(tmp_path / "a.dng").metadata
    assert back.exposure_time == pytest.approx(seconds, rel=1e-6)  # these are 1/n or need at most six digits
    assert back.as_shot_neutral == (1e9, 1.0, 1.0)
    np.testing.assert_allclose(back.color_matrices[0][1], 1e7 * np.eye(3))


def test_metadata_a_dng_cannot_hold_are_named(tmp_path):
    for meta in (Metadata(exposure_time=-1.0), Metadata(aperture=1e10), Metadata(focal_length=float("nan"))):
        with pytest.raises(UnsupportedRawError, match="the metadata hold"):
            write_dng(raw_image(metadata=meta), tmp_path / "a.dng")
    assert not list(tmp_path.iterdir())


def test_the_recorded_noise_reduction_stays_unless_another_is_given(tmp_path):
    image = raw_image(metadata=Metadata(noise_reduction_applied=0.5))
    for k, (given, expected) in enumerate(((None, 0.5), (1.0, 1.0))):
        write_dng(image, tmp_path / f"{k}.dng", noise_reduction_applied=given)
        assert read_raw(tmp_path / f"{k}.dng").metadata.noise_reduction_applied == expected


def test_unknown_color_gets_a_stated_neutral_default(tmp_path):
    written = write_dng(raw_image(metadata=Metadata()), tmp_path / "a.dng")
    assert len(written.notes) == 2
    back = read_raw(tmp_path / "a.dng").metadata
    assert back.as_shot_neutral == (1.0, 1.0, 1.0)
    illuminant, matrix = back.color_matrices[0]
    white = np.array([0.9505, 1.0, 1.089])  # XYZ of D65 (IEC 61966-2-1)
    assert illuminant == 21
    np.testing.assert_allclose(matrix @ white, 1, atol=1e-3)  # D65 is gray: no color cast

    known = raw_image(metadata=Metadata(as_shot_neutral=(0.5, 1.0, 0.625)))
    assert len(write_dng(known, tmp_path / "b.dng").notes) == 1
    _, matrix = read_raw(tmp_path / "b.dng").metadata.color_matrices[0]
    np.testing.assert_allclose(matrix @ white, (0.5, 1.0, 0.625), atol=1e-3)  # what the camera calls neutral


def test_thumbnail_shows_the_picture_in_its_colors(tmp_path):
    image = raw_image("GBRG", shape=(600, 400), black=BlackLevel.constant(100), white_level=1100.0)
    signal = np.zeros((600, 400))
    signal[:300] = (
        1000 * np.array([0.5, 1.0, 1.0, 0.625])[image.cfa.phase_map][np.arange(300)[:, None] % 2, np.arange(400) % 2]
    )  # the neutral color at saturation
    write_dng(image.with_signal(signal), tmp_path / "a.dng")
    first, _ = raw_ifd(tmp_path / "a.dng")
    height, width = int(first.first(257)), int(first.first(256))
    assert max(height, width) <= 256
    data = (tmp_path / "a.dng").read_bytes()[first.first(273) :][: first.first(279)]
    small = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    assert (small[: height // 2 - 1] == 255).all()  # white, not tinted
    assert (small[height // 2 + 1 :] == 0).all()


# ---- noise tags, digests ----


def test_noise_profile_does_not_depend_on_the_storage_scale(tmp_path):
    noise = NoiseParams(np.array([2.0, 1.8, 2.2, 1.5]), np.array([9.0, 8.0, 10.0, 7.0]))
    image = raw_image(black=BlackLevel.constant(100), white_level=4100.0)
    profiles = []
    for bits in (0, 2):
        path = tmp_path / f"{bits}.dng"
        write_dng(image.with_signal(image.signal()), path, noise=noise, noise_reduction_applied=0.75, extra_bits=bits)
        back = read_raw(path)
        profiles.append(back.metadata.noise_profile)
        assert back.metadata.noise_reduction_applied == 0.75
        span = back.white_level - back.black_level[0]
        stored = NoiseParams.from_dng(back.metadata.noise_profile, span, back.phases)
        np.testing.assert_allclose(stored.system_gain, np.array([2.0, 2.0, 2.0, 1.5]) * 2**bits, rtol=1e-12)
        np.testing.assert_allclose(stored.read_var, np.array([9.0, 9.0, 9.0, 7.0]) * 4**bits, rtol=1e-12)
    assert profiles[0] == profiles[1]


def test_digests_follow_their_definition():
    samples = mosaic((300, 513))
    cells = [samples[r : r + 256, c : c + 256] for r in (0, 256) for c in (0, 256, 512)]
    joined = b"".join(hashlib.md5(cell.astype("<u2").tobytes()).digest() for cell in cells)
    assert new_raw_image_digest(samples) == hashlib.md5(joined).digest()
    assert new_raw_image_digest(samples.astype(">u2")) == hashlib.md5(joined).digest()
    assert raw_image_digest(samples) == hashlib.md5(samples.astype("<u2").tobytes()).digest()
    planes = mosaic((10, 12, 3))
    planar = hashlib.md5(np.moveaxis(planes, 2, 0).astype("<u2").tobytes()).digest()
    assert new_raw_image_digest(planes) == hashlib.md5(planar).digest()


def test_file_carries_the_digest_of_what_it_stores(tmp_path):
    write_dng(raw_image(), tmp_path / "a.dng")
    first, _ = raw_ifd(tmp_path / "a.dng")
    assert bytes(first.get(51111)) == new_raw_image_digest(read_raw(tmp_path / "a.dng").raster)


# ---- rewriting ----

BLOB = b"maker note whose inner offsets count from the file's first byte: " + bytes(range(256))


def source_dng(
    path, order="<", *, raw_first=False, tiled=False, behind=False, shape=(64, 96), extra=(), extra_first=(), jxl=False
):
    """A DNG by hand: thumbnail, maker note, uncompressed raw data in the middle or at the end of the file.

    12-bit values, a black level per phase, a masked border.  ``jxl``: the one strip is JPEG XL, as of DNG 1.7.
    """
    samples = mosaic(shape)
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + b"\0\0\0\0")

    def put(block):
        data.extend(bytes(len(data) % 2))
        data.extend(block)
        return len(data) - len(block)

    def make(tag, kind, values):
        return Entry.make(tag, kind, values, order)

    def directory(entries):
        data.extend(bytes(len(data) % 2))
        block, positions = serialize_ifd(entries, len(data), order)
        return put(block), positions

    thumbnail = put(bytes(range(48)))
    exif, _ = directory([make(33434, RATIONAL, [(1, 125)]), make(34855, SHORT, 800), make(37500, UNDEFINED, BLOB)])
    stored = samples.astype(samples.dtype.newbyteorder(order))
    if tiled:  # 32 x 48 tiles
        pieces = [stored[r : r + 32, c : c + 48].tobytes() for r in (0, 32) for c in (0, 48)]
        layout = [make(322, LONG, 48), make(323, LONG, 32)]
        offsets_tag, counts_tag = 324, 325
    else:  # strips of 20 rows, the last one short
        pieces = [stored[r : r + 20].tobytes() for r in range(0, shape[0], 20)]
        layout = [make(278, LONG, 20)]
        if jxl:
            pieces, layout = [imagecodecs.jpegxl_encode(samples, lossless=True)], [make(278, LONG, shape[0])]
        offsets_tag, counts_tag = 273, 279
    raw = [
        make(254, LONG, 0),
        make(256, LONG, shape[1]),
        make(257, LONG, shape[0]),
        make(258, SHORT, 16),
        make(259, SHORT, 52546 if jxl else 1),
        make(262, SHORT, 32803),
        make(277, SHORT, 1),
        *layout,
        make(offsets_tag, LONG, [0] * len(pieces)),
        make(counts_tag, LONG, [len(p) for p in pieces]),
        make(33421, SHORT, [2, 2]),
        make(33422, BYTE, bytes((1, 2, 0, 1))),  # GBRG
        make(50713, SHORT, [2, 2]),
        make(50714, RATIONAL, [(129, 2), (64, 1), (259, 4), (66, 1)]),
        make(50717, SHORT, 4000),
        make(50829, LONG, [3, 5, shape[0] - 1, shape[1] - 2]),
        *extra,
    ]
    identity = [
        make(271, ASCII, "Acme"),
        make(272, ASCII, "One"),
        make(34665, LONG, exif),
        make(50706, BYTE, bytes((1, 7, 0, 0) if jxl else (1, 4, 0, 0))),
        make(50707, BYTE, bytes((1, 7, 0, 0) if jxl else (1, 1, 0, 0))),
        make(50721, SRATIONAL, [(8, 10), (0, 1), (0, 1), (0, 1), (8, 10), (0, 1), (0, 1), (0, 1), (8, 10)]),
        make(50728, RATIONAL, [(1, 2), (1, 1), (5, 8)]),
        make(50740, BYTE, BLOB[::-1]),
        make(50781, BYTE, bytes(16)),
        make(50972, BYTE, bytes(16)),
        make(51111, BYTE, bytes(16)),
        *extra_first,
    ]
    if raw_first:
        first, positions = directory(raw + identity)
    else:
        raw_at, positions = directory(raw)
        preview = [make(254, LONG, 1), make(256, LONG, 4), make(257, LONG, 4), make(258, SHORT, [8, 8, 8])]
        preview += [make(259, SHORT, 1), make(262, SHORT, 2), make(273, LONG, thumbnail), make(277, SHORT, 3)]
        preview += [make(279, LONG, 48), make(330, LONG, raw_at)]
        first, _ = directory(preview + identity)
    struct.pack_into(order + "I", data, 4, first)
    offsets = [put(piece) for piece in pieces]
    struct.pack_into(f"{order}{len(offsets)}I", data, positions[offsets_tag], *offsets)
    if behind:  # something else after the raw data, linked as a third directory
        at, _ = directory([make(254, LONG, 1), make(270, ASCII, "behind the raw data " * 4)])
        count = struct.unpack_from(order + "H", data, first)[0]
        struct.pack_into(order + "I", data, first + 2 + 12 * count, at)
    path.write_bytes(data)
    return samples


LAYOUTS = [
    {"order": order, "raw_first": raw_first, "tiled": tiled, "behind": behind}
    for order in "<>"
    for raw_first in (False, True)
    for tiled in (False, True)
    for behind in (False, True)
]
# What a rewrite may change (DNG 1.7.1): storage of the raw data, levels, noise, digests, identity, version.
MAY_CHANGE = {258, 259, 273, 278, 279, 284, 322, 323, 324, 325, 50713, 50714, 50717, 50781, 50935, 50972, 51041, 51111}
MAY_CHANGE |= {254, 277}  # made explicit
MAY_CHANGE |= {50966, 50967, 50970}  # PreviewApplicationName, -Version, -ColorSpace: the preview is rendered anew


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda k: "-".join(f"{v}" for v in k.values()))
def test_rewrite_changes_the_raw_data_and_nothing_else(tmp_path, layout):
    source, target, again = (tmp_path / name for name in ("s.dng", "t.dng", "u.dng"))
    samples = source_dng(source, **layout)
    image = read_raw(source)
    np.testing.assert_array_equal(image.raster, samples)

    # Whole numbers: stored as they are, and the levels are not touched.
    assert write_dng(image, target, source=source).scale == 1
    np.testing.assert_array_equal(read_raw(target).raster, samples)
    np.testing.assert_array_equal(libraw(target)[0], samples)
    assert raw_ifd(target)[1].entries[50714].data == raw_ifd(source)[1].entries[50714].data

    # With a fraction: everything times 4, the masked border included.
    noise = NoiseParams(1.5, 4.0)
    changed = image.with_signal(image.signal() + 0.25)
    written = write_dng(changed, target, source=source, noise=noise, noise_reduction_applied=1.0, overwrite=True)
    assert (written.form, written.scale, written.saturated) == ("rewrite", 4.0, 0)
    back = read_raw(target)
    expected = 4 * samples
    expected[3:-1, 5:-2] += 1
    np.testing.assert_array_equal(back.raster, expected)
    np.testing.assert_array_equal(libraw(target)[0], expected)
    assert back.active_area == image.active_area
    assert back.white_level == 16000
    assert back.black_level == tuple(4 * b for b in image.black_level)
    assert back.metadata.noise_profile == noise.to_dng(4000 - np.mean(image.black_level), image.phases)

    old, new = TiffFile.parse(source.read_bytes()), TiffFile.parse(target.read_bytes())
    olds, news = list(old.with_sub_ifds()), list(new.with_sub_ifds())
    assert len(olds) == len(news)
    for before, after in zip(olds, news, strict=True):
        differs = {t for t in before.entries.keys() | after.entries.keys() if before.get(t) != after.get(t)}
        assert differs - {330} <= MAY_CHANGE
    blocks = [b"maker note whose", BLOB[::-1]] + [b"behind the raw data"] * layout["behind"]
    assert (new.data[8:56] == bytes(range(48))) == layout["raw_first"]  # the thumbnail, which no directory names there
    for block in blocks:  # where they were, so that offsets inside them stay true
        assert new.data.find(block) == old.data.find(block) > 0
    first, raw = raw_ifd(target)
    assert raw.order == layout["order"]
    assert bytes(first.get(51111)) == new_raw_image_digest(expected)
    assert bytes(first.get(50972)) == raw_image_digest(expected)
    assert bytes(first.get(50781)) != bytes(16)
    assert len({273, 324} & raw.entries.keys()) == 1

    # The freed space is used again: a rewrite of a rewrite does not grow.
    written_again = write_dng(read_raw(target), again, source=target)
    assert written_again.size == written.size
    np.testing.assert_array_equal(read_raw(again).raster, expected)


def test_a_short_value_behind_the_raw_data_is_not_cut_off(tmp_path):
    source = tmp_path / "s.dng"
    source_dng(source, raw_first=True, extra_first=[Entry.make(50730, SRATIONAL, [(1, 4)])])
    data = bytearray(source.read_bytes())
    tiff = TiffFile.parse(bytes(data))
    first = tiff.ifd(tiff.first_offset)
    directory_entry = first.offset + 2 + 12 * sorted(first.entries).index(50730)
    data += bytes(len(data) % 2)
    struct.pack_into("<I", data, directory_entry + 8, len(data))
    data += first.entries[50730].data  # 8 bytes at the end of the file
    source.write_bytes(data)
    image = read_raw(source)
    write_dng(image, tmp_path / "t.dng", source=source)
    assert raw_ifd(tmp_path / "t.dng")[0].get(50730) == (0.25,)
    np.testing.assert_array_equal(read_raw(tmp_path / "t.dng").raster, image.raster)


@pytest.mark.parametrize("copies", [1, 3], ids=["one pair", "a pair per plane"])
@pytest.mark.parametrize("order", "<>")
def test_both_copies_of_the_noise_profile_tell_the_truth(tmp_path, copies, order):
    old = Entry.make(51041, DOUBLE, [1e-4, 1e-6] * copies, order)
    source = tmp_path / "s.dng"
    source_dng(source, order, extra=[old], extra_first=[old])
    image = read_raw(source)
    noise = NoiseParams(1.5, 4.0)
    pair = (1.5 / (4000 - np.mean(image.black_level)), 4.0 / (4000 - np.mean(image.black_level)) ** 2)
    cases = [
        ({}, tuple([1e-4, 1e-6] * copies)),  # as it was
        ({"noise": noise, "noise_reduction_applied": 1.0}, pair * 3),
        ({"noise_reduction_applied": 1.0}, ()),  # something was removed, nobody says what remains
    ]
    for k, (options, expected) in enumerate(cases):
        write_dng(image, tmp_path / f"{k}.dng", source=source, **options)
        first, raw = raw_ifd(tmp_path / f"{k}.dng")
        assert first.get(51041) == pytest.approx(expected)
        assert raw.get(51041) == pytest.approx(expected)
        assert first.text(271) == "Acme"
        np.testing.assert_array_equal(libraw(tmp_path / f"{k}.dng")[0], image.raster)


def test_version_falls_when_jpeg_xl_leaves_the_file(tmp_path):
    samples = source_dng(tmp_path / "s.dng", jxl=True)
    write_dng(read_raw(tmp_path / "s.dng"), tmp_path / "t.dng", source=tmp_path / "s.dng")
    first, raw = raw_ifd(tmp_path / "t.dng")
    assert raw.first(259) == 7
    assert first.get(50706) == (1, 7, 0, 0)  # what the file was written to
    assert first.get(50707) == (1, 4, 0, 0)  # what a reader needs to know
    np.testing.assert_array_equal(libraw(tmp_path / "t.dng")[0], samples)


def test_transparency_mask_stays_and_counts_in_the_digest(tmp_path):
    image = raw_image()
    write_dng(image, tmp_path / "plain.dng")
    data = bytearray((tmp_path / "plain.dng").read_bytes())
    mask = mosaic((70, 92), bits=8).astype(np.uint8)
    first, _ = raw_ifd(tmp_path / "plain.dng")
    data += bytes(len(data) % 2)
    at = len(data)
    data += mask.tobytes()
    entries = [Entry.make(t, LONG, v) for t, v in ((254, 4), (256, 92), (257, 70), (273, at), (279, mask.size))]
    entries += [Entry.make(t, SHORT, v) for t, v in ((258, 8), (259, 1), (262, 4), (277, 1))]
    mask_at = len(data)
    data += serialize_ifd(entries, mask_at)[0]
    subs = struct.pack("<2I", first.first(330), mask_at)
    at = len(data)
    data += subs
    position = next(p for p in range(first.offset + 2, len(data), 12) if data[p : p + 2] == struct.pack("<H", 330))
    struct.pack_into("<II", data, position + 4, 2, at)
    (tmp_path / "s.dng").write_bytes(data)

    write_dng(image, tmp_path / "t.dng", source=tmp_path / "s.dng")
    tiff = TiffFile.parse((tmp_path / "t.dng").read_bytes())
    first, _ = raw_ifd(tmp_path / "t.dng")
    kept = tiff.ifd(int(first.get(330)[1]))
    assert tiff.data[kept.first(273) :][: mask.size] == mask.tobytes()
    one_cell = hashlib.md5(hashlib.md5(mask.tobytes()).digest()).digest()
    joined = new_raw_image_digest(image.raster) + one_cell
    assert bytes(first.get(51111)) == hashlib.md5(joined).digest()

    damaged = bytearray(tiff.data)  # a mask of unknown compression: the picture is read, its digest is not checked
    struct.pack_into("<H", damaged, kept.entries[259].offset, 34713)
    (tmp_path / "u.dng").write_bytes(damaged)
    np.testing.assert_array_equal(read_raw(tmp_path / "u.dng").raster, image.raster)


def test_black_deltas_are_scaled_where_no_black_level_is_recorded(tmp_path):
    deltas = [Entry.make(50715, SRATIONAL, [(k, 8) for k in range(30)]), Entry.make(50717, LONG, 4000)]
    source = make_dng.write(tmp_path, mosaic((24, 30), 11) + np.uint16(4), name="s.dng", raw_tags=deltas)
    image = read_raw(source)
    written = write_dng(image.with_signal(image.signal()), tmp_path / "t.dng", source=source)
    back = read_raw(tmp_path / "t.dng")
    assert written.scale == 4
    step = 1 / 4  # DN, of a stored sample; half of it is lost by rounding
    np.testing.assert_allclose(back.signal() / written.scale, image.signal(), atol=step / 2)


@pytest.mark.parametrize("pattern", ["RGGB", "GGGG"])
def test_a_mosaic_read_as_monochrome_is_written_back(tmp_path, pattern):
    source = make_dng.write(tmp_path, mosaic((24, 30)), name="s.dng", cfa=pattern)
    image = read_raw(source, cfa="MONO")
    write_dng(image, tmp_path / "t.dng", source=source)
    np.testing.assert_array_equal(libraw(tmp_path / "t.dng")[0], image.raster)
    assert raw_ifd(tmp_path / "t.dng")[1].get(33422) == raw_ifd(source)[1].get(33422)


def test_opcodes_stay(tmp_path):
    # WarpRectilinear-like opcode (id 1) with a payload nobody reads
    opcode = struct.pack(">IIIII", 1, 1, 0x01030000, 1, 8) + b"lensdata"
    source_dng(tmp_path / "s.dng", extra=[Entry.make(51022, UNDEFINED, opcode)])
    image = read_raw(tmp_path / "s.dng")
    write_dng(image.with_signal(image.signal()), tmp_path / "t.dng", source=tmp_path / "s.dng")
    assert raw_ifd(tmp_path / "t.dng")[1].entries[51022].data == opcode
    write_dng(image, tmp_path / "fresh.dng")
    assert raw_ifd(tmp_path / "fresh.dng")[1].entries[51022].data == opcode


def test_opcodes_on_stored_values_forbid_another_scale(tmp_path):
    # FixBadPixelsConstant (id 4): its constant is a stored value.
    opcode = struct.pack(">IIIII", 1, 4, 0x01030000, 0, 8) + struct.pack(">II", 0, 1)
    source_dng(tmp_path / "s.dng", extra=[Entry.make(51008, UNDEFINED, opcode)])
    image = read_raw(tmp_path / "s.dng")
    changed = image.with_signal(image.signal() + 0.25)
    with pytest.raises(UnsupportedRawError, match="extra_bits=0"):
        write_dng(changed, tmp_path / "t.dng", source=tmp_path / "s.dng")
    write_dng(changed, tmp_path / "t.dng", source=tmp_path / "s.dng", extra_bits=0)


def test_linear_values_leave_no_linearization_table_behind(tmp_path):
    table = (np.arange(4096) ** 2 // 4200).astype(int).tolist()
    samples = source_dng(tmp_path / "s.dng", extra=[Entry.make(50712, SHORT, table)])
    image = read_raw(tmp_path / "s.dng")
    np.testing.assert_array_equal(image.raster, np.array(table)[samples])
    write_dng(image, tmp_path / "t.dng", source=tmp_path / "s.dng")
    assert 50712 not in raw_ifd(tmp_path / "t.dng")[1]
    np.testing.assert_array_equal(read_raw(tmp_path / "t.dng").raster, image.raster)


def test_border_of_a_linear_image_is_kept(tmp_path):
    linear = LinearImage(pixels=mosaic((40, 60, 3)), black=BlackLevel.constant(0), white_level=4095.0)
    write_dng(linear, tmp_path / "s.dng")
    data = bytearray((tmp_path / "s.dng").read_bytes())
    area = raw_ifd(tmp_path / "s.dng")[1].entries[50829]
    struct.pack_into("<4I", data, area.offset, 2, 3, 38, 56)
    (tmp_path / "s.dng").write_bytes(data)
    image = read_raw(tmp_path / "s.dng")
    assert image.pixels.shape == (36, 53, 3)
    write_dng(image.with_signal(image.signal() + 0.25), tmp_path / "t.dng", source=tmp_path / "s.dng")
    expected = 4 * linear.pixels
    expected[2:38, 3:56] += 1
    np.testing.assert_array_equal(libraw(tmp_path / "t.dng")[0], expected)


# ---- refusals ----


def test_existing_files_and_sources_are_safe(tmp_path):
    source = tmp_path / "s.dng"
    source_dng(source)
    before = source.read_bytes()
    image = read_raw(source)
    (tmp_path / "t.dng").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="exists"):
        write_dng(image, tmp_path / "t.dng", source=source)
    assert (tmp_path / "t.dng").read_bytes() == b"precious"
    for given in (source, None):  # named as the source, or only remembered as the file it was read from
        with pytest.raises(OutputExistsError, match="never replaced"):
            write_dng(image, source, source=given, overwrite=True)
    assert source.read_bytes() == before
    write_dng(image, tmp_path / "t.dng", source=source, overwrite=True)
    assert is_dng(tmp_path / "t.dng")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dng(raw_image(), tmp_path / "a.dng")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 6, 200, 2000, -1000])
def test_a_cut_source_is_one_clear_error(tmp_path, keep):
    source_dng(tmp_path / "s.dng")
    image = read_raw(tmp_path / "s.dng")
    (tmp_path / "cut.dng").write_bytes((tmp_path / "s.dng").read_bytes()[:keep])
    with pytest.raises(UnsupportedRawError) as error:
        write_dng(image, tmp_path / "t.dng", source=tmp_path / "cut.dng")
    assert "cut.dng" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "t.dng").exists()


def test_a_source_that_is_no_dng_or_another_picture_is_refused(tmp_path):
    image = raw_image()
    (tmp_path / "text.dng").write_bytes(b"not a picture at all")
    block, _ = serialize_ifd([Entry.make(256, LONG, 4)], 8)
    (tmp_path / "plain.tif").write_bytes(b"II*\0\x08\0\0\0" + block)
    source_dng(tmp_path / "other.dng")
    for name, message in (("text.dng", "not a TIFF"), ("plain.tif", "not a DNG"), ("other.dng", "96 x 64")):
        with pytest.raises(UnsupportedRawError, match=message):
            write_dng(image, tmp_path / "t.dng", source=tmp_path / name)
    assert [is_dng(tmp_path / n) for n in ("text.dng", "plain.tif", "other.dng")] == [False, False, True]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"raster": np.full((70, 92), np.nan, np.float32)}, {}, "not finite"),
        ({"raster": np.zeros((70, 92), np.int32)}, {}, "int32"),
        ({"white_level": 4000.3}, {}, "whole number"),
        ({"white_level": 70000.0}, {}, "whole number"),
        ({"raster": np.ones((70, 92), np.float32)}, {"extra_bits": -1}, "extra_bits"),
        ({}, {"noise_reduction_applied": 1.5}, "from 0 to 1"),
        ({"black": BlackLevel.constant(-5)}, {}, "black level"),
    ],
)
def test_values_a_dng_cannot_hold_are_refused(tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        write_dng(raw_image(**change), tmp_path / "a.dng", **options)
    assert list(tmp_path.iterdir()) == []


# ---- real files ----


@pytest.mark.data
@pytest.mark.parametrize("name", ["05_PGTM2_unsigned8.dng", "14_hdr_sdr_profiles.dng"])
def test_digest_is_the_one_of_adobes_sdk(data_dir, name):
    path = data_dir / "raw" / name
    first, _ = raw_ifd(path)
    assert bytes(first.get(51111)) == new_raw_image_digest(read_raw(path).pixels)


@pytest.mark.data
def test_old_digest_is_the_one_of_adobes_converter(data_dir):
    path = data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng"
    assert bytes(raw_ifd(path)[0].get(50972)) == raw_image_digest(read_raw(path).raster)


@pytest.mark.data
def test_rewriting_a_real_dng_touches_its_raw_data_previews_and_digests_only(data_dir, tmp_path):
    source = data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng"
    image = read_raw(source)
    written = write_dng(image.with_signal(image.signal() * 0.99 + 0.5), tmp_path / "t.dng", source=source)
    assert written.scale == 4
    old, new = source.read_bytes(), (tmp_path / "t.dng").read_bytes()
    raw = raw_ifd(source)[1]
    raw_data = min(raw.get(324))
    own = {*range(raw.offset, raw.offset + 2 + 12 * len(raw.entries) + 4)}
    own |= {i for e in raw.entries.values() if len(e.data) > 4 for i in range(e.offset, e.offset + len(e.data))}
    differing = [i for i in np.flatnonzero(
        np.frombuffer(old[:raw_data], np.uint8) != np.frombuffer(new[:raw_data], np.uint8)
    ) if i not in own]  # fmt: skip
    first = TiffFile.parse(old).ifd(8)
    allowed = {e.offset + k for e in (first.entries[50781], first.entries[50972]) for k in range(16)}
    for preview in (d for d in TiffFile.parse(old).with_sub_ifds() if d.first(254) == 1):  # pixels and their sizes
        allowed |= set(range(preview.first(273), preview.first(273) + preview.first(279)))
        allowed |= {e.offset + k for tag, e in preview.entries.items() if tag in (273, 279) for k in range(4)}
    allowed |= {first.entries[330].offset + k for k in range(8)} | {4, 5, 6, 7}  # pointers to rebuilt directories
    assert set(differing) <= allowed


@pytest.mark.data
def test_magic_lantern_file_whose_raw_image_is_the_first_directory(data_dir, tmp_path):
    source = data_dir / "raw" / "canon_kissx4_magiclantern_14bit_uncompressed.dng"
    image = read_raw(source)
    write_dng(image, tmp_path / "t.dng", source=source)
    np.testing.assert_array_equal(libraw(tmp_path / "t.dng")[0], libraw(source)[0])
    first, raw = raw_ifd(tmp_path / "t.dng")
    assert first.offset == raw.offset
    assert bytes(first.get(51111)) == new_raw_image_digest(image.raster)
    assert tuple(first.get(50706)) == (1, 4, 0, 0)  # 1.1 in the source; the digest tag came with 1.4


@pytest.mark.data
def test_curve_coded_dng_is_stored_linear_without_its_curve(data_dir, tmp_path):
    source = data_dir / "raw" / "12_ImageStats_WeightedAverage.dng"
    image = read_raw(source)
    written = write_dng(image, tmp_path / "t.dng", source=source)
    back = read_raw(tmp_path / "t.dng")
    assert 51009 not in raw_ifd(tmp_path / "t.dng")[1]
    assert np.abs(back.pixels / written.scale - image.pixels).max() <= 0.5 / written.scale
    assert written.scale == 256


def test_float_images_become_whole_numbers_on_request(tmp_path):
    rng = np.random.default_rng(4)
    pixels = rng.uniform(0, 32768, (40, 48, 3)).astype(np.float32)
    image = LinearImage(pixels=pixels, black=BlackLevel.constant(0), white_level=32768.0)
    written = write_dng(image, tmp_path / "whole.dng", whole_numbers=True)
    again = read_raw(tmp_path / "whole.dng")
    assert again.pixels.dtype == np.uint16
    assert np.abs(again.pixels - pixels * written.scale).max() <= 0.5


def test_a_version_of_text_is_refused_when_it_is_to_be_raised(tmp_path):
    """DNGVersion has the right bytes but says they are letters."""
    from make_dng import build

    text = Entry.make(50706, ASCII, bytes((1, 7, 0, 0)))
    (tmp_path / "s.dng").write_bytes(build(np.full((16, 16), 900, np.uint16), first_tags=[text]))
    image = read_raw(tmp_path / "s.dng")
    with pytest.raises(UnsupportedRawError, match="tag 50706"):
        write_dng(image, tmp_path / "t.dng", source=tmp_path / "s.dng")
    assert not (tmp_path / "t.dng").exists()
