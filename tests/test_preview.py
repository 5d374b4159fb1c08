"""Previews: geometry, colors, tone and bytes against closed forms and other decoders."""

import io
import struct
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from rawkit.raw import preview
from rawkit.raw.develop import develop
from rawkit.raw.dng import write_dng
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.raw.read import read_raw
from rawkit.raw.tiff import ASCII, DOUBLE, LONG, SHORT, Entry, TiffFile, serialize_ifd
from tests.test_dng import raw_ifd, source_dng


def scene(shape=(240, 360), pattern="RGGB"):
    """A red square in the upper left of a gray field, with a black level that differs from row to row."""
    cfa = CFA.parse(pattern)
    rgb = np.full((*shape, 3), 0.25)
    rgb[: shape[0] // 3, : shape[1] // 3] = (0.5, 0.02, 0.02)
    rows, cols = np.indices(shape)
    letters = np.array(list(cfa.pattern)).reshape(cfa.shape)[rows % cfa.shape[0], cols % cfa.shape[1]]
    signal = np.select([letters == c for c in "RGB"], [rgb[..., k] for k in range(3)]) * 4000
    black = BlackLevel(np.full((1, 1), 100.0), None, np.arange(shape[0]) % 7.0)
    raster = black.add(signal)
    return RawImage(raster=raster, cfa=cfa, black=black, white_level=4103.0, metadata=Metadata(orientation=6)), rgb


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("size", [(24, 36), (100, 150), (240, 360)], ids=["block means", "odd ratio", "developed"])
def test_colors_lie_where_they_are_in_the_sensor(pattern, size):
    image, _ = scene(pattern=pattern)
    small = preview.render_small(image, *size)
    assert small.shape == (*size, 3)
    inside, outside = small[: size[0] // 4, : size[1] // 4], small[size[0] // 2 :, size[1] // 2 :]
    # An uncolored field is gray whatever the CFA; black deltas 0..6 DN are removed to float32.
    np.testing.assert_allclose(outside, 0.25, atol=1e-3)
    np.testing.assert_allclose(inside[2:, 2:], np.broadcast_to((0.5, 0.02, 0.02), inside[2:, 2:].shape), atol=1e-3)


def test_a_crop_shifts_phase_and_black_with_it():
    image, _ = scene()
    part = preview.render_small(image, 61, 81, (3.0, 5.0, 61.0, 81.0))
    # 1/4 of saturation everywhere outside the square's rows: a wrong phase would color it
    np.testing.assert_allclose(preview.render_small(image, 61, 81, (101.0, 151.0, 61.0, 81.0)), 0.25, atol=1e-3)
    np.testing.assert_allclose(part[10:50, 10:70], np.broadcast_to((0.5, 0.02, 0.02), (40, 60, 3)), atol=1e-3)


def test_bands_do_not_show():
    rng = np.random.default_rng(3)
    raster = rng.integers(0, 4000, (700, 40)).astype(np.uint16)
    image = RawImage(raster=raster, cfa=CFA.parse("GBRG"), black=BlackLevel.constant(10), white_level=4000.0)
    bands = preview.encode(preview.render_small(image, 700, 40))
    np.testing.assert_array_equal(bands, develop(image))  # 700 rows are three bands


def test_xtrans_and_linear_images_are_rendered():
    image, _ = scene(pattern="GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG")
    np.testing.assert_allclose(preview.render_small(image, 20, 30)[12:], 0.25, atol=1e-3)
    linear = LinearImage(
        pixels=np.full((60, 90, 3), (30, 20, 10), np.float32), black=BlackLevel.constant(0), white_level=100.0
    )
    small = preview.render_small(linear, 20, 31)
    np.testing.assert_allclose(small, np.broadcast_to((0.3, 0.2, 0.1), small.shape), atol=1e-6)


def test_other_aspect_ratios_get_bars_and_keep_the_picture_whole():
    image, _ = scene()  # 3:2
    picture = preview.fitted(image, 90, 90, None)
    assert (picture[:15] == 0).all()
    assert (picture[75:] == 0).all()
    assert (picture[15:75].max(axis=2) > 0).all()


def test_tone_of_the_old_preview_is_taken_over():
    rng = np.random.default_rng(5)
    linear = rng.uniform(0, 1, (64, 64, 1)).astype(np.float32) * np.array([0.8, 1.0, 0.6], np.float32)
    # Another program's rendering of the same light: other white balance, an S-curve.
    balanced = linear * np.array([1.1, 0.9, 1.3], np.float32)
    like = np.rint(255 * (3 * balanced**2 - 2 * balanced**3).clip(0, 1)).astype(np.uint8)
    new = preview.encode(linear, like)
    plain = preview.encode(linear)
    off, plain_off = (np.abs(p.mean(axis=(0, 1)) - like.mean(axis=(0, 1))).max() for p in (new, plain))
    assert off < plain_off / 2
    assert abs(float(np.median(new)) - float(np.median(like))) <= 2
    order = np.argsort(linear[..., 1].ravel())
    assert (np.diff(new[..., 1].ravel()[order].astype(int)) >= 0).all()  # monotone: no solarization


PREVIEW = (100, 160)


def with_jpeg_preview(path, *, order="<", tiled=False, compression=7, extra=()):
    """``source_dng`` with a colorful preview of 160 x 100 pixels linked behind IFD 0's chain."""
    source_dng(path, order, shape=(200, 320))
    data = bytearray(path.read_bytes())
    ramp = np.linspace(0, 255, PREVIEW[1]).astype(np.uint8)
    old = np.stack([np.tile(ramp, (PREVIEW[0], 1)), np.tile(ramp[::-1], (PREVIEW[0], 1))] * 2, axis=2)[:, :, :3]
    tile = (64, 96) if tiled else PREVIEW
    pieces = []
    for top in range(0, PREVIEW[0], tile[0]):
        for left in range(0, PREVIEW[1], tile[1]):
            part = old[top : top + tile[0], left : left + tile[1]]
            part = np.pad(part, ((0, tile[0] - len(part)), (0, tile[1] - part.shape[1]), (0, 0)), mode="edge")
            if compression == 7:
                out = io.BytesIO()
                Image.fromarray(part).save(out, "JPEG", quality=95, subsampling=2)
                pieces.append(out.getvalue())
            else:
                pieces.append(zlib.compress(part.tobytes()) if compression == 8 else part.tobytes())
    offsets = []
    for piece in pieces:
        data += bytes(len(data) % 2)
        offsets.append(len(data))
        data += piece

    def make(tag, kind, values):
        return Entry.make(tag, kind, values, order)

    places = [(322, tile[1]), (323, tile[0])] if tiled else [(278, tile[0])]
    where, sizes = (324, 325) if tiled else (273, 279)
    entries = [
        make(254, LONG, 1), make(256, LONG, PREVIEW[1]), make(257, LONG, PREVIEW[0]), make(258, SHORT, [8, 8, 8]),
        make(259, SHORT, compression), make(262, SHORT, 6 if compression == 7 else 2), make(277, SHORT, 3),
        *[make(tag, LONG, value) for tag, value in places], make(where, LONG, offsets),
        make(sizes, LONG, [len(p) for p in pieces]), make(50968, ASCII, "Their settings"),
        make(50971, ASCII, "2020-01-01T00:00:00"), *extra,
    ]  # fmt: skip
    data += bytes(len(data) % 2)
    first = TiffFile.parse(bytes(data)).first_offset
    count = int.from_bytes(data[first : first + 2], "little" if order == "<" else "big")
    at = len(data)
    data[first + 2 + 12 * count : first + 6 + 12 * count] = at.to_bytes(4, "little" if order == "<" else "big")
    data += serialize_ifd(entries, at, order)[0]
    path.write_bytes(data)
    return old


def preview_of(path):
    data = path.read_bytes()
    ifd = next(d for d in TiffFile.parse(data).with_sub_ifds() if d.first(256) == PREVIEW[1])
    return ifd, data


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("compression", [1, 7, 8])
def test_preview_is_the_new_picture_in_the_old_structure(tmp_path, order, tiled, compression):
    source, target, again = (tmp_path / f"{n}.dng" for n in "stu")
    with_jpeg_preview(source, order=order, tiled=tiled, compression=compression)
    image = read_raw(source)
    signal = np.full(image.mosaic.shape, 100.0)
    signal[:, image.mosaic.shape[1] // 2 :] = 2000.0  # dark left, bright right: nothing like the source's
    written = write_dng(image.with_signal(signal), target, source=source)
    assert not written.notes
    (old, _), (new, data) = preview_of(source), preview_of(target)
    for tag in (254, 256, 257, 258, 259, 262, 277, 278, 322, 323):
        assert old.get(tag) == new.get(tag), tag
    where, sizes = (324, 325) if tiled else (273, 279)
    pieces = [data[a : a + n] for a, n in zip(new.get(where), new.get(sizes), strict=True)]
    rows, cols = (64, 96) if tiled else PREVIEW
    shape = (rows, cols, 3)
    if compression == 7:
        opened = [Image.open(io.BytesIO(p)) for p in pieces]
        assert all(o.layer[0][1:3] == (2, 2) for o in opened)  # chroma at half the resolution, as before
        tiles = [np.asarray(o) for o in opened]
    else:
        tiles = [np.frombuffer(zlib.decompress(p) if compression == 8 else p, np.uint8).reshape(shape) for p in pieces]
    assert len(tiles) == (4 if tiled else 1)
    right = tiles[1][:, :40] if tiled else tiles[0][:, 110:]  # columns 96 to 136, or 110 to 160
    assert right.mean() > tiles[0][:, :70].mean() + 50
    assert new.text(50966) == "rawkit"
    assert 50968 not in new
    assert 50971 not in new  # nobody said when
    # A rewrite of a rewrite uses the same places again; only the preview's own compressed size may differ a little.
    assert write_dng(read_raw(target), again, source=target).size <= written.size + 512
    np.testing.assert_array_equal(read_raw(again).raster, read_raw(target).raster)


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_chroma_sampling_of_an_old_preview_is_kept_however_large_it_is(sampling):
    picture = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    old = bytearray(preview.jpeg(picture, 80, sampling))
    start = old.index(b"\xff\xc0")  # SOF0: marker, length, precision, height, width
    old[start + 5 : start + 9] = struct.pack(">HH", 20_000, 15_000)  # 300 megapixels, more than Pillow opens
    new = preview._jpeg_like(picture, bytes(old))
    with Image.open(io.BytesIO(new)) as image:
        assert get_sampling(image) == sampling


def test_the_time_is_written_when_it_is_known(tmp_path, monkeypatch):
    with_jpeg_preview(tmp_path / "s.dng")
    image = read_raw(tmp_path / "s.dng")
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    write_dng(image, tmp_path / "a.dng", source=tmp_path / "s.dng", preview_time=when)
    assert preview_of(tmp_path / "a.dng")[0].text(50971) == "2026-01-02T03:04:05+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    write_dng(image, tmp_path / "b.dng", source=tmp_path / "s.dng")
    assert preview_of(tmp_path / "b.dng")[0].text(50971) == "1970-01-01T00:00:00+00:00"


def test_a_preview_of_another_form_stays_and_is_named(tmp_path):
    with_jpeg_preview(tmp_path / "s.dng", compression=8, extra=[Entry.make(317, SHORT, 3)])
    image = read_raw(tmp_path / "s.dng")
    written = write_dng(image, tmp_path / "t.dng", source=tmp_path / "s.dng")
    assert len(written.notes) == 1
    assert "160 x 100" in written.notes[0]
    (old, before), (new, after) = preview_of(tmp_path / "s.dng"), preview_of(tmp_path / "t.dng")
    assert before[old.first(273) :][: old.first(279)] == after[new.first(273) :][: new.first(279)]


def test_the_photographers_crop_is_shown_where_it_fits():
    xmp = b'<x crs:CropTop="0" crs:CropLeft="0" crs:CropBottom="0.5" crs:CropRight="1" crs:CropAngle="0" '
    ifd = serialized({700: Entry.make(700, 1, xmp + b'crs:HasCrop="True"/>')})
    assert preview.possible_crops(ifd, ifd, (200, 300)) == [(0, 0, 200, 300), (0, 0, 100, 300)]
    ifd = serialized({700: Entry.make(700, 1, xmp + b'crs:HasCrop="False"/>')})
    assert preview.possible_crops(ifd, ifd, (200, 300)) == [(0, 0, 200, 300)]


@pytest.mark.parametrize("origin", [(-5, 0), (150, 0), (0,), (float("nan"), 0), (1e300, 0)])
def test_a_crop_that_is_none_is_the_whole_picture(origin):
    entries = {50719: Entry.make(50719, DOUBLE, origin), 50720: Entry.make(50720, DOUBLE, [200.0, 100.0])}
    ifd = serialized(entries)
    assert preview.possible_crops(ifd, ifd, (150, 240)) == [(0, 0, 150, 240)]
    xmp = b'<x crs:HasCrop="true" crs:CropAngle="1.2.3" crs:CropTop="abc">'
    ifd = serialized({700: Entry.make(700, 1, xmp)})
    assert preview.possible_crops(ifd, ifd, (150, 240)) == [(0, 0, 150, 240)]


def serialized(entries):
    data = b"II*\0\x08\0\0\0" + serialize_ifd(list(entries.values()), 8)[0]
    return TiffFile.parse(data).ifd(8)


def test_a_fresh_dng_has_a_thumbnail_and_a_preview(tmp_path):
    image, _ = scene((600, 900))
    write_dng(image, tmp_path / "a.dng")
    first, _ = raw_ifd(tmp_path / "a.dng")
    data = (tmp_path / "a.dng").read_bytes()
    large = TiffFile.parse(data).ifd(int(first.get(330)[1]))
    picture = np.asarray(Image.open(io.BytesIO(data[large.first(273) :][: large.first(279)])))
    assert picture.shape == (592, 892, 3)  # the default crop: 4 pixels less on each side
    assert (first.first(256), first.first(257)) == (256, 170)
    assert first.first(274) == 6  # stored as the sensor lies; the tag turns it
    assert picture[50, 50, 0] > 150 > picture[50, 50, 1] + 50
    assert abs(int(picture[500, 800, 0]) - 137) <= 2  # sRGB of 1/4
