"""Reading: what was stored comes back, number for number; what cannot be read says so in one line."""

import contextlib
import hashlib
import json
import struct
import time

import numpy as np
import pytest

from rawkit.errors import DamagedDataWarning, MetadataError, RawkitError, UnsupportedRawError
from rawkit.raw import dng_pixels, opcodes, read
from rawkit.raw.dng_directory import find_raw
from rawkit.raw.image import CFA, LinearImage, RawImage
from rawkit.raw.metadata import exif_metadata, from_tags, iso_from_tags
from rawkit.raw.mosaic import MosaicSpec
from rawkit.raw.read import read_raw
from rawkit.raw.tiff import BYTE, DOUBLE, LONG, RATIONAL, SHORT, SRATIONAL, UNDEFINED, Entry, TiffFile
from tests import make_dng

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
XTRANS = "GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG"


def samples(shape, dtype=np.uint16, top=None, seed=1):
    """Smooth content with noise, using the whole range up to ``top``."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 0.9, int(np.prod(shape))).reshape(shape)
    if np.dtype(dtype).kind == "f":
        return (ramp + rng.normal(0, 0.05, shape)).astype(dtype)
    top = np.iinfo(dtype).max if top is None else top
    return np.clip((ramp + rng.uniform(0, 0.1, shape)) * top, 0, top).astype(dtype)


# -------------------------------------------------------------------------------------------------- DNG geometry


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pattern", BAYER)
def test_every_bayer_phase_in_both_byte_orders(tmp_path, pattern, order):
    raster = samples((12, 10))
    image = read_raw(make_dng.write(tmp_path, raster, cfa=pattern, order=order))
    assert isinstance(image, RawImage)
    assert image.cfa == CFA.bayer(pattern)
    assert np.array_equal(image.raster, raster)
    assert image.active_area is None


@pytest.mark.parametrize("origin", [(0, 0), (1, 0), (0, 1), (3, 5)])
def test_cfa_and_black_are_relative_to_an_odd_active_area(tmp_path, origin):
    # A sensor that is RGGB from its own corner, black 10, 20, 30, 40 for its four sites.
    black = np.tile([[10.0, 20.0], [30.0, 40.0]], (10, 10))
    signal = samples((20, 20), top=1000).astype(float)
    top, left = origin
    pattern = CFA.bayer("RGGB").rolled(top, left).pattern
    levels = np.roll([[10, 20], [30, 40]], (-top, -left), (0, 1)).ravel()
    tags = [
        Entry.make(50829, LONG, [top, left, 18, 17]),
        Entry.make(50713, SHORT, [2, 2]),
        Entry.make(50714, RATIONAL, [(int(v), 1) for v in levels]),
    ]
    image = read_raw(make_dng.write(tmp_path, (signal + black).astype(np.uint16), cfa=pattern, raw_tags=tags))
    assert image.active_area == (top, left, 18, 17)
    assert np.array_equal(image.signal(), signal[top:18, left:17])
    assert image.black_level == (10, 20, 30, 40)  # R, Gr, Gb, B of this sensor, wherever the area begins


def test_row_and_column_black_deltas_are_removed(tmp_path):
    signal = samples((8, 6), top=500).astype(float)
    rows, cols = np.arange(8) * 2.0 - 3, np.arange(6) * -1.0 + 4
    tags = [
        Entry.make(50714, RATIONAL, [(64, 1)]),
        Entry.make(50715, SRATIONAL, [(int(v), 1) for v in cols]),
        Entry.make(50716, SRATIONAL, [(int(v), 1) for v in rows]),
    ]
    stored = signal + 64 + cols + rows[:, None]
    image = read_raw(make_dng.write(tmp_path, stored.astype(np.uint16), raw_tags=tags))
    assert np.array_equal(image.signal(), signal)


def test_defaults_the_specification_defines(tmp_path):
    integers = read_raw(make_dng.write(tmp_path, samples((8, 8), top=4095), bits=12))
    floats = read_raw(make_dng.write(tmp_path, samples((8, 8), np.float32)))
    assert (integers.white_level, integers.black_level) == (4095, (0, 0, 0, 0))
    assert floats.white_level == 1.0


def test_the_main_image_is_read_and_not_the_preview(tmp_path):
    raster = samples((10, 12))
    image = read_raw(make_dng.write(tmp_path, raster, preview=True))
    assert np.array_equal(image.raster, raster)


def test_interleave_factors_as_large_as_the_image_do_not_hang():
    stored = np.arange(2000 * 2000, dtype=np.uint32).reshape(2000, 2000)
    started = time.process_time()
    image = dng_pixels.deinterleave(stored, 1999, 1999)
    assert time.process_time() - started < 1  # s; two passes of 16 MB, where 4 million small copies take five
    order = np.array([0, *range(2, 2000), 1])  # field 0 holds rows 0 and 1999
    np.testing.assert_array_equal(image, stored[np.ix_(order, order)])


def test_linearization_table_is_applied_and_clamps_at_its_end(tmp_path):
    stored = samples((8, 8), np.uint8, top=99)
    stored[0, :2] = 100, 255
    table = (np.arange(100) ** 2).astype(int).tolist()
    image = read_raw(make_dng.write(tmp_path, stored, raw_tags=[Entry.make(50712, SHORT, table)], cfa="RGGB"))
    assert np.array_equal(image.raster, np.array(table)[np.minimum(stored, 99)])


def test_x_trans_and_monochrome(tmp_path):
    raster = samples((12, 18))
    assert read_raw(make_dng.write(tmp_path, raster, cfa=XTRANS)).cfa == CFA.xtrans(XTRANS)
    mono = read_raw(make_dng.write(tmp_path, raster, cfa=None))
    assert isinstance(mono, RawImage)
    assert mono.cfa == CFA.mono()
    assert np.array_equal(mono.mosaic, raster)


# --------------------------------------------------------------------------------------------------- DNG samples

TILES, STRIPS, ONE = {"tile": (16, 32)}, {"rows_per_strip": 7}, {}


@pytest.mark.parametrize("place", [TILES, STRIPS, ONE], ids=["tiles", "strips", "one strip"])
@pytest.mark.parametrize(
    "options",
    [
        *({"bits": bits, "order": order} for bits in (8, 10, 12, 14, 16) for order in "<>"),
        {"compression": 7, "bits": 14},
        {"compression": 7, "bits": 16, "fold": "rows"},
        {"compression": 7, "bits": 16, "fold": "components"},
        *({"compression": 8, "predictor": p, "order": o} for p in (1, 2, 34892, 34893) for o in "<>"),
        {"compression": 8, "bits": 8, "predictor": 2},
        {"compression": 52546},
        {"compression": 52546, "bits": 8},
        {"compression": 52546, "interleave": (2, 2)},
        {"interleave": (2, 3)},
    ],
    ids=str,
)
def test_integer_mosaics_come_back_exactly(tmp_path, options, place):
    if options.get("fold") and place is not TILES:
        pytest.skip("strips of odd height cannot be folded")
    bits = options.get("bits", 16)
    raster = samples((37, 51), np.uint8 if bits == 8 else np.uint16, top=2**bits - 1)
    image = read_raw(make_dng.write(tmp_path, raster, **options, **place))
    assert image.raster.dtype == raster.dtype
    assert np.array_equal(image.raster, raster)


@pytest.mark.parametrize("place", [TILES, STRIPS], ids=["tiles", "strips"])
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("compression", [1, 7, 8, 52546])
def test_linear_images_come_back_exactly(tmp_path, compression, planar, place):
    pixels = samples((37, 51, 3))
    options = {"predictor": 2} if compression == 8 else {}
    image = read_raw(
        make_dng.write(tmp_path, pixels, cfa=None, compression=compression, planar=planar, **place, **options)
    )
    assert isinstance(image, LinearImage)
    assert np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 3, 34894, 34895])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(21, 30), (21, 30, 3)])
def test_deflate_floats_come_back_exactly(tmp_path, shape, dtype, predictor, order):
    values = samples(shape, dtype)
    path = make_dng.write(
        tmp_path, values, cfa="RGGB" if len(shape) == 2 else None, compression=8, predictor=predictor, order=order,
        tile=(16, 16),
    )  # fmt: skip
    image = read_raw(path)
    stored = image.raster if isinstance(image, RawImage) else image.pixels
    assert stored.dtype == np.float32
    assert np.array_equal(stored, values.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compression", [1, 52546])
def test_other_floats_come_back_exactly(tmp_path, compression, dtype):
    values = np.abs(samples((20, 24), dtype))
    image = read_raw(make_dng.write(tmp_path, values, compression=compression, tile=(16, 16)))
    assert np.array_equal(image.raster, values.astype(np.float32))


def test_24_bit_floats_have_a_7_bit_exponent_of_bias_63():
    import imagecodecs

    words = np.array([0x3F0000, 0xBF0000, 0x3E8000, 0x3F8001, 0x500123, 0x000000, 0x010000, 0x7E0000], np.uint32)
    wanted = [1.0, -1.0, 0.75, 1.5 + 2**-16, 2.0**17 * (1 + 0x123 / 2**16), 0.0, 2.0**-62, 2.0**63]
    assert dng_pixels.float24(words).tolist() == wanted
    stream = b"".join(int(w).to_bytes(3, "big") for w in words)
    reference = np.frombuffer(imagecodecs.float24_decode(stream, byteorder=">"), np.float32)
    assert np.array_equal(dng_pixels.float24(words), reference)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_24_bit_floats_in_a_file(tmp_path, order, compression):
    import zlib

    words = (np.arange(64, dtype=np.uint32).reshape(8, 8) * 1021 + 0x3E0000) & 0x7FFFFF
    raw = b"".join(int(w).to_bytes(3, "big" if order == ">" else "little") for w in words.ravel())
    plain = make_dng.build(np.zeros((8, 8), np.float32), order=order)
    block = zlib.compress(raw) if compression == 8 else raw
    data = bytearray(plain[:8] + block + b"\0" * (256 - len(block)) + plain[8 + 256 :])  # where the floats were
    path = tmp_path / "f24.dng"
    path.write_bytes(_patched(bytes(data), {258: 24, 259: compression, 279: len(block)}))
    assert np.array_equal(read_raw(path).raster, dng_pixels.float24(words))


def test_lossy_jpeg_is_close_and_has_its_orientation(tmp_path):
    pixels = np.dstack([np.add.outer(np.arange(32), np.arange(48)) + k * 40 for k in range(3)]).astype(np.uint8)
    image = read_raw(make_dng.write(tmp_path, pixels, cfa=None, compression=34892, tile=(32, 48)))
    assert np.abs(image.pixels.astype(int) - pixels).max() <= 6  # quality 98 of a smooth picture


def _patched(data: bytes, values: dict[int, int]) -> bytes:
    """The file with single values of IFD 0 replaced."""
    file = TiffFile.parse(data)
    changed = bytearray(data)
    for tag, value in values.items():
        entry = file.ifd(file.first_offset).entries[tag]
        changed[entry.offset : entry.offset + len(entry.data)] = struct.pack(
            file.order + {3: "H", 4: "I"}[entry.type], value
        )
    return bytes(changed)


def test_result_does_not_depend_on_the_number_of_threads(tmp_path):
    data = make_dng.build(samples((64, 64)), compression=7, tile=(16, 16))
    file = TiffFile.parse(data)
    ifd = file.ifd(file.first_offset)
    assert np.array_equal(dng_pixels.decode(data, ifd, workers=1), dng_pixels.decode(data, ifd, workers=5))


# --------------------------------------------------------------------------------------- values stored on a curve


def _polynomial(plane, coefficients, area=(0, 0, 32, 48), pitch=(1, 1)):
    body = struct.pack(">8I", *area, plane, 1, *pitch) + struct.pack(">I", len(coefficients) - 1)
    body += struct.pack(f">{len(coefficients)}d", *coefficients)
    return struct.pack(">4I", 8, 0x01030000, 0, len(body)) + body


def test_map_polynomial_makes_a_linear_image_linear_and_leaves_the_list(tmp_path):
    pixels = samples((32, 48, 3), np.uint8)
    coefficients = [(0.001, 0.1, 0.0, 0.5), (0.0, 0.2, 0.3, 0.1), (0.01, 0.5)]
    other = struct.pack(">4I", 5, 0x01030000, 1, 4) + b"abcd"  # FixBadPixelsList: not ours, must stay
    body = b"".join(_polynomial(p, c) for p, c in enumerate(coefficients))
    tags = [Entry.make(51009, UNDEFINED, struct.pack(">I", 4) + body + other)]
    image = read_raw(make_dng.write(tmp_path, pixels, cfa=None, raw_tags=tags))
    u = pixels / 255
    wanted = np.dstack([np.polynomial.polynomial.polyval(u[:, :, p], c) for p, c in enumerate(coefficients)])
    np.testing.assert_allclose(image.signal() / 255, wanted, rtol=2e-6, atol=1e-6)  # float32
    assert image.metadata.opcode_lists == {"OpcodeList2": struct.pack(">I", 1) + other}


def test_map_table_acts_on_its_own_pixels_of_a_mosaic(tmp_path):
    raster = samples((320, 8), top=65535)  # more rows than are processed at a time
    table = (np.arange(65536) ** 2 // 65536).astype(">u2")
    body = struct.pack(">9I", 1, 0, 320, 8, 0, 1, 2, 2, table.size) + table.tobytes()
    data = struct.pack(">I", 1) + struct.pack(">4I", 7, 0x01030000, 0, len(body)) + body
    image = read_raw(make_dng.write(tmp_path, raster, raw_tags=[Entry.make(51009, UNDEFINED, data)]))
    wanted = raster.astype(float)
    wanted[1::2, ::2] = table[raster[1::2, ::2]]
    np.testing.assert_allclose(image.mosaic, wanted, atol=0.01)
    assert image.metadata.opcode_lists == {}


def test_opcode_lists_survive_parsing():
    data = struct.pack(">I", 2) + _polynomial(0, (0, 1)) + _polynomial(1, (0, 1, 2))
    assert opcodes.serialize(opcodes.parse(data)) == data
    with pytest.raises(UnsupportedRawError, match="past its end"):
        opcodes.parse(data[:-1])


# ------------------------------------------------------------------------------------------------------ metadata


def test_dng_metadata(tmp_path):
    first = [
        Entry.make(274, SHORT, 6),
        Entry.make(34855, SHORT, 400),  # TIFF/EP keeps ISO in IFD 0
        Entry.make(50730, SRATIONAL, [(-1, 2)]),
        Entry.make(51041, DOUBLE, [1e-4, 1e-6, 2e-4, 2e-6, 3e-4, 3e-6]),
        Entry.make(50935, RATIONAL, [(0, 0)]),
        Entry.make(51022, UNDEFINED, struct.pack(">I", 0)),
        Entry.make(50735, 2, "1234"),
    ]
    image = read_raw(make_dng.write(tmp_path, samples((8, 8)), first_tags=first, preview=True))
    meta = image.metadata
    assert (meta.make, meta.model, meta.serial, meta.camera()) == ("Maker", "Maker M1", "1234", "Maker M1")
    assert image.iso == 400
    assert meta.orientation == 6
    assert meta.as_shot_neutral == (0.5, 1.0, 0.625)
    assert meta.baseline_exposure == -0.5
    assert meta.noise_profile == ((1e-4, 1e-6), (2e-4, 2e-6), (3e-4, 3e-6))
    assert meta.noise_reduction_applied is None  # 0/0: unknown
    assert meta.opcode_lists == {"OpcodeList3": b"\0\0\0\0"}
    assert [(light, m.tolist()) for light, m in meta.color_matrices] == [(21, np.eye(3).tolist())]
    assert meta.file_format == "DNG"


def test_iso_is_not_needed_to_read_but_to_ask_for(tmp_path):
    path = make_dng.write(tmp_path, samples((8, 8)))
    with pytest.raises(MetadataError, match="--iso"):
        _ = read_raw(path).iso
    assert read_raw(path, iso=320).iso == 320


@pytest.mark.parametrize(
    ("tags", "iso"),
    [
        ({"EXIF ISOSpeedRatings": [200]}, 200),
        ({"EXIF ISOSpeedRatings": [0]}, None),
        ({"EXIF ISOSpeedRatings": [65535], "EXIF RecommendedExposureIndex": [102400]}, 102400),
        ({"EXIF ISOSpeedRatings": [102400]}, 102400),  # as a LONG, against the standard and without doubt
        ({"EXIF ISOSpeedRatings": [0], "EXIF ISOSpeed": [50], "Image ExposureIndex": [99]}, 50),
        ({"EXIF StandardOutputSensitivity": [125]}, 125),
        ({"Image ISOSpeedRatings": [640]}, 640),
        ({"MakerNote ISOSetting": [0, 200]}, 200),
        ({"MakerNote ISOInfo": [72, 1, 12]}, 200),  # 100 x 2^(72/12 - 5)
        ({"MakerNote ISO": "3200"}, 3200),
        ({"MakerNote ISO": "Auto"}, None),
        ({"EXIF ISOSpeedRatings": []}, None),
        ({}, None),
    ],
)
def test_iso_from_every_place_cameras_put_it(tags, iso):
    assert iso_from_tags(tags) == iso


def test_an_exposure_no_camera_makes_is_ignored_and_said(tmp_path):
    for stops, expected in ((5000, None), (-2, -2)):
        tags = [Entry.make(50730, SRATIONAL, [(stops, 1)])]
        meta = read_raw(make_dng.write(tmp_path, samples((8, 8)), first_tags=tags)).metadata
        assert meta.baseline_exposure == expected
        assert any("BaselineExposure 5000" in note for note in meta.notes) == (expected is None)


def test_zero_means_not_recorded():
    meta = from_tags({"EXIF ExposureTime": [0], "EXIF FNumber": [0], "Image Orientation": [0], "Image Make": "\0 "})
    assert (meta.exposure_time, meta.aperture, meta.orientation, meta.make) == (None, None, 1, None)


# ---------------------------------------------------------------------------------------------- refused, in a line


def _one_line(error, path):
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.dng", b""),
        ("text.dng", b"this is not a raw file\n" * 9),
        ("text.nef", b"this is not a raw file\n" * 9),
        ("zeros.dng", bytes(4096)),
        ("stub.dng", b"II*\0"),
        ("loop.dng", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"),
        ("big.dng", b"II+\0" + bytes(60)),
        ("cut.png", b"\x89PNG\r\n\x1a\n"),
        ("cut.npy", b"\x93NUMPY\x01\0"),
        ("cut.tif", b"II*\0\xff\0\0\0"),
        ("cut.raf", b"FUJIFILMCCD-RAW " + bytes(60)),
        ("cut.cr3", b"\0\0\0\x18ftypcrx " + bytes(60)),
    ],
)
def test_what_is_no_raw_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnsupportedRawError) as error:
        read_raw(path)
    _one_line(error, path)


@pytest.mark.parametrize("extension", ["dng", "nef", "raw"])
@pytest.mark.parametrize("codec", ["jpeg8", "png"])
def test_renamed_pictures_are_refused(tmp_path, codec, extension):
    import imagecodecs

    path = tmp_path / f"picture.{extension}"
    path.write_bytes(getattr(imagecodecs, f"{codec}_encode")(samples((64, 64, 3), np.uint8)))
    with pytest.raises(UnsupportedRawError) as error:
        read_raw(path)
    _one_line(error, path)


def test_folders_and_missing_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.dng"):
        with pytest.raises(UnsupportedRawError) as error:
            read_raw(path)
        _one_line(error, path)


@pytest.mark.parametrize(
    "options", [{}, {"compression": 7, "tile": (16, 16)}, {"compression": 52546, "tile": (16, 16)}]
)
def test_a_truncated_dng_is_never_returned(tmp_path, options):
    # The directory comes first, as cameras write it, so that only the pixels are missing.
    whole = make_dng.build(samples((48, 48)), **options)
    file = TiffFile.parse(whole)
    at = file.first_offset
    ifd = file.ifd(at)
    end = max(o + c for o, c in zip(ifd.get(324) or ifd.get(273), ifd.get(325) or ifd.get(279), strict=True))
    path = tmp_path / "cut.dng"
    for keep in np.linspace(8, end - 1, 25).astype(int):
        moved = _directory_first(whole, int(keep))
        path.write_bytes(moved)
        with pytest.raises(UnsupportedRawError, match="cut"):
            read_raw(path)
    path.write_bytes(_directory_first(whole, end))
    read_raw(path)


def _directory_first(data: bytes, keep: int) -> bytes:
    """The same DNG with its directory in front of the pixels, of which the first ``keep`` bytes are kept."""
    from rawkit.raw.tiff import serialize_ifd

    file = TiffFile.parse(data)
    ifd = file.ifd(file.first_offset)
    where = 273 if 273 in ifd else 324
    size = len(serialize_ifd(list(ifd.entries.values()), 8)[0])
    moved = Entry.make(where, LONG, [o + size for o in ifd.get(where)])
    entries = [moved if e.tag == where else e for e in ifd.entries.values()]
    return struct.pack("<2sHI", b"II", 42, 8) + serialize_ifd(entries, 8)[0] + data[8:keep]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({256: 60000, 257: 60000}, "megapixels"),
        ({257: 100000}, "cut|damaged|needed"),
        ({256: 0}, "0x"),
        ({259: 34713}, "compression"),
        ({258: 7}, "7-bit"),
        ({278: 1}, "needed"),
        ({279: 5}, "needed"),
        ({254: 1}, "main raw image"),
        ({256: 16000, 257: 16000, 278: 16000, 259: 7}, "lossless|needed"),
        ({256: 16000, 257: 16000, 278: 16000, 259: 8}, "needed"),
    ],
)
def test_impossible_headers_are_refused_before_memory_is_taken(tmp_path, values, message):
    path = tmp_path / "odd.dng"
    path.write_bytes(_patched(make_dng.build(samples((16, 16))), values))
    with pytest.raises(UnsupportedRawError, match=message) as error:
        read_raw(path)
    _one_line(error, path)


@pytest.mark.parametrize("options", [{}, {"compression": 7, "tile": (16, 16)}, {"compression": 8, "predictor": 2}])
def test_random_damage_never_escapes_as_another_error(tmp_path, options):
    whole = make_dng.build(samples((32, 32)), **options)
    rng = np.random.default_rng(7)
    path = tmp_path / "damaged.dng"
    start = TiffFile.parse(whole).first_offset
    for trial in range(150):
        data = bytearray(whole)
        low = start if trial % 3 else 0  # two thirds of the damage in the directory
        for position in rng.integers(low, len(data), 3):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(RawkitError):
            read_raw(path)


def test_a_maker_note_of_billions_of_values_is_given_up(tmp_path):
    """exifread walks through all of them, beyond the end of the file: for hours."""
    path = tmp_path / "endless.tif"
    entry = struct.pack("<HHII", 37500, 7, 0xF0000000, 8)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + bytes(4))
    assert exif_metadata(path).iso is None


def test_planes_of_different_white_level_are_refused(tmp_path):
    tags = [Entry.make(50717, LONG, [1000, 2000, 3000])]
    with pytest.raises(UnsupportedRawError, match="white level"):
        read_raw(make_dng.write(tmp_path, samples((8, 8, 3)), cfa=None, raw_tags=tags))


@pytest.mark.parametrize("white", [(1, 60), (0, 1), (3, 2), (1, 0), (0, 0)])
def test_a_white_level_that_is_no_whole_number_is_refused(tmp_path, white):
    tags = [Entry.make(50717, RATIONAL, [white])]
    with pytest.raises(UnsupportedRawError, match="whole number"):
        read_raw(make_dng.write(tmp_path, samples((8, 8)), raw_tags=tags))


@pytest.mark.parametrize("repeat", [[60000, 60000], [65, 1], [0, 1]])
def test_a_black_level_of_endless_period_takes_no_memory(tmp_path, repeat):
    # One value stands for all of the period: 60000 x 60000 of them would be 29 GB.
    tags = [Entry.make(50713, SHORT, repeat), Entry.make(50714, SHORT, 64)]
    path = make_dng.write(tmp_path, samples((8, 8)), raw_tags=tags)
    with pytest.raises(MetadataError, match="--black-level"):
        read_raw(path)
    assert read_raw(path, black_level=64).black_level == (64, 64, 64, 64)


def test_what_is_stated_stands_in_for_levels_that_make_no_sense(tmp_path):
    raster, nothing = samples((8, 8), top=900), [(0, 0)]
    path = make_dng.write(tmp_path, raster, raw_tags=[Entry.make(50714, RATIONAL, nothing)])
    with pytest.raises(MetadataError, match="--black-level"):
        read_raw(path)
    image = read_raw(path, black_level=(1, 2, 3, 4))
    assert image.black_level == (1, 2, 3, 4)
    path = make_dng.write(tmp_path, raster, raw_tags=[Entry.make(50717, RATIONAL, nothing)])
    assert read_raw(path, white_level=1000).white_level == 1000
    color = [Entry.make(50714, RATIONAL, nothing), Entry.make(50717, LONG, [1000, 1100, 1200])]
    path = make_dng.write(tmp_path, samples((8, 8, 3), top=900), cfa=None, raw_tags=color)
    image = read_raw(path, black_level=(1, 2, 3), white_level=1000)
    assert (image.black_level, image.white_level) == ((1, 2, 3), 1000)


@pytest.mark.parametrize("sides", [(-2, -2), (-1, -4), (0, 0)])
def test_a_cfa_of_negative_size_is_refused(tmp_path, sides):
    signed_short = 8
    dim = Entry(33421, signed_short, 2, struct.pack("<2h", *sides))
    with pytest.raises(UnsupportedRawError, match="CFAPattern"):
        read_raw(make_dng.write(tmp_path, samples((8, 8)), raw_tags=[dim]))


def test_levels_must_make_sense(tmp_path):
    path = make_dng.write(tmp_path, samples((8, 8)))
    with pytest.raises(MetadataError, match="--black-level"):
        read_raw(path, black_level=float("nan"))
    with pytest.raises(MetadataError, match="--black-level"):
        read_raw(path, black_level=70000)
    with pytest.raises(MetadataError, match="--white-level"):
        read_raw(path, black_level=100, white_level=100)
    with pytest.raises(MetadataError, match="2 black levels"):
        read_raw(path, black_level=(1, 2))
    with pytest.raises(MetadataError, match="MONO"):
        read_raw(path, cfa="RGBW")
    with pytest.raises(MetadataError, match="ISO"):
        read_raw(path, iso=0)


def test_arguments_win_over_the_file(tmp_path):
    path = make_dng.write(tmp_path, samples((8, 8)), first_tags=[Entry.make(34855, SHORT, 400)])
    image = read_raw(path, iso=100, black_level=(1, 2, 3, 4), white_level=5000, cfa="GBRG")
    assert (image.iso, image.black_level, image.white_level) == (100, (1, 2, 3, 4), 5000)
    assert image.cfa == CFA.bayer("GBRG")


# ----------------------------------------------------------------------------------------------- headless mosaics

SPEC = {"cfa": "GRBG", "black_level": [10, 11, 12, 13], "white_level": 4000, "iso": 800, "make": "Maker"}


def _write_headless(folder, kind, mosaic):
    import imagecodecs
    import tifffile

    path = folder / f"frame.{kind}"
    if kind == "npy":
        np.save(path, mosaic)
    elif kind == "png":
        path.write_bytes(imagecodecs.png_encode(mosaic))
    elif kind == "tif":
        tifffile.imwrite(path, mosaic)
    else:
        path.write_bytes(b"HEADER" + mosaic.astype(">u2").tobytes())
    return path


@pytest.mark.parametrize("kind", ["npy", "png", "tif", "raw"])
@pytest.mark.parametrize("source", ["sidecar", "argument"])
def test_headless_mosaics(tmp_path, kind, source):
    mosaic = samples((20, 30), top=4000)
    path = _write_headless(tmp_path, kind, mosaic)
    spec = SPEC | ({"width": 30, "height": 20, "dtype": ">u2", "offset": 6} if kind == "raw" else {})
    if source == "sidecar":
        (tmp_path / f"frame.{kind}.json").write_text(json.dumps(spec))
        image = read_raw(path, white_level=3900)
    else:
        image = read_raw(path, mosaic=MosaicSpec(**spec), white_level=3900)
    assert np.array_equal(image.raster, mosaic)
    assert (image.cfa.pattern, image.black_level, image.white_level) == ("GRBG", (10, 11, 12, 13), 3900)
    assert (image.iso, image.metadata.make) == (800, "Maker")


def test_arguments_alone_describe_a_gray_png(tmp_path):
    mosaic = samples((8, 8), np.uint8)
    path = _write_headless(tmp_path, "png", mosaic)
    image = read_raw(path, cfa="MONO", black_level=0, white_level=255)
    assert image.cfa == CFA.mono()
    assert np.array_equal(image.mosaic, mosaic)


@pytest.mark.parametrize("missing", ["cfa", "black_level", "white_level"])
def test_headless_levels_are_never_guessed(tmp_path, missing):
    path = _write_headless(tmp_path, "npy", samples((8, 8)))
    known = {"cfa": "RGGB", "black_level": 0, "white_level": 65535}
    del known[missing]
    with pytest.raises(MetadataError, match=f"--{missing.replace('_', '-')}.*frame.npy.json"):
        read_raw(path, **known)


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("{", "not readable JSON"),
        ("[1]", "list"),
        ('{"colour": 1}', "colour"),
        ('{"width": 3.5}', "whole number"),
        ('{"iso": "high"}', "must be a positive number"),
        ('{"cfa": 7}', "must be text"),
        ('{"white_level": NaN}', "must be a number"),
        ('{"as_shot_neutral": 0.5}', "three positive numbers"),
        ('{"as_shot_neutral": [1, 0, 1]}', "three positive numbers"),
        ("[" * 100_000, "not readable JSON"),
        ("{}", "width, height, dtype"),
        ('{"width": 4, "height": 5, "dtype": "<u2"}', "make 40"),
        ('{"width": 4, "height": 5, "dtype": "int"}', "dtype"),
        ('{"width": 4, "height": 5, "dtype": "u2,,"}', "dtype"),
        ('{"iso": 0}', "iso must be a positive number"),
        ('{"exposure_time": -1}', "exposure_time must be a positive number"),
        ('{"orientation": 9}', "orientation"),
    ],
)
def test_a_faulty_sidecar_is_named(tmp_path, sidecar, message):
    path = tmp_path / "frame.raw"
    path.write_bytes(bytes(50))
    (tmp_path / "frame.raw.json").write_text(sidecar)
    with pytest.raises(MetadataError, match=message) as error:
        read_raw(path)
    _one_line(error, path)


def test_a_picture_is_not_taken_for_a_mosaic(tmp_path):
    path = _write_headless(tmp_path, "tif", samples((8, 8, 3)))
    with pytest.raises(UnsupportedRawError, match="not a gray mosaic"):
        read_raw(path, cfa="RGGB", black_level=0, white_level=1)
    path = _write_headless(tmp_path, "npy", samples((8, 8)).astype(np.float64))
    with pytest.raises(UnsupportedRawError, match="float64"):
        read_raw(path, cfa="RGGB", black_level=0, white_level=1)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([[print]], object), allow_pickle=True)
    with pytest.raises(UnsupportedRawError, match="damaged"):
        read_raw(path, cfa="MONO", black_level=0, white_level=1)


# -------------------------------------------------------------------------------------------------------- LibRaw

NOTHING = {"iso": None, "black_level": None, "white_level": None, "cfa": None}


@pytest.mark.parametrize("pattern", [*BAYER, XTRANS])
def test_libraw_agrees_on_pixels_levels_and_phase(tmp_path, pattern):
    # A DNG both can read, with margins, four black levels and a table: LibRaw is an independent reader.
    raster = samples((72, 60), top=999)
    tags = [
        Entry.make(50829, LONG, [4, 2, 70, 56]),
        Entry.make(50714, RATIONAL, [(16, 1)]),
        Entry.make(50717, LONG, [1990]),
        Entry.make(50712, SHORT, (np.arange(1000) * 2).tolist()),
    ]
    if len(pattern) == 4:
        tags[1:2] = [Entry.make(50713, SHORT, [2, 2]), Entry.make(50714, RATIONAL, [(v, 1) for v in (16, 17, 18, 19)])]
    path = make_dng.write(tmp_path, raster, cfa=pattern, raw_tags=tags, preview=True)
    ours, theirs = read_raw(path), read._read_libraw(path, b"II*\0", **NOTHING)
    assert np.array_equal(ours.raster, raster * 2)
    assert np.array_equal(theirs.raster, ours.raster)
    assert theirs.active_area == ours.active_area == (4, 2, 70, 56)
    assert theirs.cfa == ours.cfa
    assert theirs.black_level == ours.black_level
    assert np.array_equal(theirs.signal(), ours.signal())
    assert theirs.white_level == ours.white_level
    np.testing.assert_allclose(theirs.metadata.as_shot_neutral, ours.metadata.as_shot_neutral, rtol=1e-6)
    assert theirs.metadata.decoder.startswith("LibRaw")


@pytest.mark.data
@pytest.mark.parametrize("name", ["nikon_d5000_hdrmerge1_ljpeg", "canon_kissx4_magiclantern_14bit_uncompressed"])
def test_real_mosaics_equal_libraw(data_dir, name):
    path = data_dir / "raw" / f"{name}.dng"
    ours, theirs = read_raw(path), read._read_libraw(path, b"II*\0", **NOTHING)
    assert np.array_equal(ours.raster, theirs.raster)
    assert (ours.active_area, ours.cfa, ours.black_level, ours.white_level) == (
        theirs.active_area, theirs.cfa, theirs.black_level, theirs.white_level,
    )  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize("name", ["05_PGTM2_unsigned8", "12_ImageStats_WeightedAverage"])
def test_real_linear_images_equal_libraw(data_dir, name):
    path = data_dir / "raw" / f"{name}.dng"
    data = path.read_bytes()
    ifd = find_raw(TiffFile.parse(data)).ifd
    theirs = read._read_libraw(path, b"II*\0", **NOTHING)
    assert np.array_equal(dng_pixels.decode(data, ifd), theirs.pixels)


@pytest.mark.data
def test_real_metadata(data_dir):
    nikon = read_raw(data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng")
    assert (nikon.iso, nikon.metadata.exposure_time, nikon.metadata.aperture) == (200, 1 / 160, 6.3)
    assert (nikon.metadata.camera(), nikon.metadata.serial, nikon.cfa.pattern) == ("NIKON D5000", "6438342", "GBRG")
    canon = read_raw(data_dir / "raw" / "canon_kissx4_magiclantern_14bit_uncompressed.dng")
    with pytest.raises(MetadataError, match="--iso"):
        _ = canon.iso


@pytest.mark.data
@pytest.mark.parametrize("name", ["01_jxl_linear_raw_integer", "02_jxl_linear_raw_float"])
def test_jpeg_xl_files_are_seamless_and_look_like_their_preview(data_dir, name):
    path = data_dir / "raw" / f"{name}.dng"
    image = read_raw(path)
    assert isinstance(image, LinearImage)
    assert image.pixels.dtype == np.float32
    assert 0.1 * image.white_level < image.pixels.max() <= image.white_level
    ifd = find_raw(TiffFile.parse(path.read_bytes())).ifd
    for axis, tag in ((1, 322), (0, 323)):
        # Neighbors across a tile border differ little more than within a tile (lossy tiles: 1.2 times); pixels 60
        # apart differ 5 to 7 times as much, so no tile is misplaced, scaled or mirrored.
        lines = np.moveaxis(image.pixels[:, :, 1], axis, 0)
        border = np.arange(int(ifd.first(tag)), lines.shape[0], int(ifd.first(tag)))
        across = np.abs(lines[border] - lines[border - 1]).mean()
        within = np.abs(lines[border + 2] - lines[border + 1]).mean()
        assert across < 1.5 * within
    preview = _preview(path)
    rows, cols = (
        np.linspace(0, size - 1, coarse).astype(int)
        for size, coarse in zip(image.pixels.shape, preview.shape[:2], strict=False)
    )
    for k in range(3):  # ranks, because the writer's render has curves and local edits of its own
        ranks = [np.argsort(np.argsort(p[..., k].ravel())) for p in (image.pixels[np.ix_(rows, cols)], preview)]
        assert np.corrcoef(*ranks)[0, 1] > 0.4  # 40000 pixels: 0.005 by chance


def _preview(path):
    data = path.read_bytes()
    for ifd in TiffFile.parse(data).with_sub_ifds():
        if ifd.first(254) == 1 and ifd.first(262) == 2 and ifd.first(259) == 1:
            height, width = int(ifd.first(257)), int(ifd.first(256))
            pixels = np.frombuffer(data, np.uint8, height * width * 3, int(ifd.first(273)))
            return pixels.reshape(height, width, 3)
    return pytest.skip("no uncompressed preview")


@pytest.mark.data
def test_a_size_is_not_an_identity(data_dir, tmp_path):
    # LibRaw takes this 768 x 512 16-bit crop for a 1024 x 768 8-bit camera file of the same length.
    path = data_dir / "raw" / "nikon_dsc1339_768x512_rggb_u16le.raw"
    with pytest.raises(MetadataError, match="sidecar"):
        read_raw(path)
    spec = MosaicSpec(width=768, height=512, dtype="<u2", cfa="RGGB", black_level=600, white_level=16383)
    image = read_raw(path, mosaic=spec)
    assert image.mosaic.shape == (512, 768)
    assert image.mosaic.max() <= 16383


@pytest.mark.parametrize("tag", [51111, 50972])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_raw_data_that_lost_their_digest_are_named(tmp_path, tag, dtype, recwarn):
    raster = samples((300, 270), dtype)
    stored = raster.astype(dtype, copy=False).astype(np.dtype(dtype).newbyteorder("<"))
    if tag == 50972:
        digest = hashlib.md5(stored.tobytes()).digest()
    else:  # cells of at most 256 x 256, edge cells cut
        cells = [stored[r : r + 256, c : c + 256].tobytes() for r in (0, 256) for c in (0, 256)]
        digest = hashlib.md5(b"".join(hashlib.md5(cell).digest() for cell in cells)).digest()
    path = make_dng.write(tmp_path, raster, first_tags=[Entry.make(tag, BYTE, digest)])
    assert not any("Digest" in note for note in read_raw(path).metadata.notes)
    assert not [w for w in recwarn if w.category is DamagedDataWarning]
    data = bytearray(path.read_bytes())
    data[8 + 4 * 1000] ^= 1  # one bit of one pixel
    path.write_bytes(data)
    with pytest.warns(DamagedDataWarning, match="image.dng"):
        image = read_raw(path)
    assert "damaged" in image.metadata.notes[-1]


@pytest.mark.data
def test_real_files_have_their_digests(data_dir, recwarn):
    for path in sorted((data_dir / "raw").glob("*.dng")):
        if "jxl" not in path.name:
            read_raw(path)
    assert not [str(w.message) for w in recwarn if w.category is DamagedDataWarning]
