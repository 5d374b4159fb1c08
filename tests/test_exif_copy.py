"""What a raw's metadata become in a fresh DNG, on a NEF made by hand and read by LibRaw."""

import shutil
import struct
from dataclasses import replace

import exifread
import numpy as np
import pytest

from rawkit.errors import OutputExistsError
from rawkit.raw.develop import demosaic
from rawkit.raw.dng import write_dng
from rawkit.raw.exif_copy import carried_metadata
from rawkit.raw.exiftool import add_missing
from rawkit.raw.image import BlackLevel
from rawkit.raw.read import read_raw
from rawkit.raw.sidecar import copy_sidecars
from rawkit.raw.tiff import ASCII, BYTE, LONG, RATIONAL, SHORT, Entry, TiffFile, serialize_ifd
from tests.make_nef import LENS, MAKER_NOTE, XMP, write_nef
from tests.test_dng import libraw, raw_ifd

MODEL = "NIKON Z 6"


@pytest.fixture(params="<>")
def nef(tmp_path, request):
    mosaic = np.random.default_rng(1).integers(600, 16383, (320, 480)).astype(np.uint16)
    write_nef(tmp_path / "shot.nef", mosaic, request.param, MODEL)
    return tmp_path / "shot.nef", mosaic, request.param


def test_libraw_opens_the_made_nef_and_its_dng_alike(nef, tmp_path):
    path, mosaic, _ = nef
    image = read_raw(path)
    assert image.metadata.decoder.startswith("LibRaw")
    np.testing.assert_array_equal(image.raster, mosaic)
    write_dng(image, tmp_path / "a.dng")
    np.testing.assert_array_equal(libraw(tmp_path / "a.dng")[0], mosaic)


def test_exif_gps_lens_xmp_and_rights_arrive(nef, tmp_path):
    path, _, _ = nef
    assert write_dng(read_raw(path), tmp_path / "a.dng").notes == ("the white balance is not recorded: "
                                                                  "AsShotNeutral is 1, 1, 1.",)  # fmt: skip
    first, _ = raw_ifd(tmp_path / "a.dng")
    assert first.first(274) == 6
    assert first.entries[700].data == XMP
    assert (first.text(315), first.text(33432)) == ("A. Photographer", "(c) A. Photographer")
    assert first.get(50736) == pytest.approx((18, 55, 3.5, 5.6))
    with (tmp_path / "a.dng").open("rb") as file:  # another reader
        tags = {name: str(value) for name, value in exifread.process_file(file, details=False).items()}
    assert tags["EXIF ExposureTime"] == "1/160"
    assert tags["EXIF ISOSpeedRatings"] == "3200"
    assert tags["EXIF LensModel"] == LENS
    assert tags["EXIF FocalLengthIn35mmFilm"] == "36"
    assert tags["EXIF DateTimeOriginal"] == "2014:03:09 13:25:51"
    assert tags["GPS GPSLatitude"] == "[53, 28, 0]"
    assert tags["GPS GPSLongitudeRef"] == "W"


def test_the_maker_note_lies_in_the_block_of_the_specification(nef, tmp_path):
    path, _, order = nef
    write_dng(read_raw(path), tmp_path / "a.dng")
    block = raw_ifd(tmp_path / "a.dng")[0].entries[50740].data
    assert block[:10] == b"Adobe\0MakN"
    length, mark, offset = struct.unpack(">I2sI", block[10:20])
    assert length == len(MAKER_NOTE) + 6
    assert mark == (b"II" if order == "<" else b"MM")
    assert path.read_bytes()[offset:].startswith(MAKER_NOTE)
    assert block[20 : 20 + len(MAKER_NOTE)] == MAKER_NOTE
    assert len(block) % 2 == 0


def test_a_stated_iso_replaces_the_recorded_one(nef, tmp_path):
    write_dng(read_raw(nef[0], iso=100), tmp_path / "a.dng")
    assert read_raw(tmp_path / "a.dng").iso == 100


@pytest.mark.data
def test_a_demosaiced_dng_keeps_the_color_profile_of_its_source(data_dir, tmp_path):
    source = data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng"
    image = read_raw(source)
    top = image.mosaic[:64, :96].copy()
    small = demosaic(replace(image, raster=top, active_area=None, black=BlackLevel.constant(0.0)))
    write_dng(small, tmp_path / "a.dng")
    old, new = raw_ifd(source)[0], raw_ifd(tmp_path / "a.dng")[0]
    wanted = [tag for tag in (50721, 50722, 50778, 50779, 50936, 50938, 50940, 50964, 50827, 50740) if tag in old]
    assert len(wanted) > 4
    for tag in wanted:
        assert new.get(tag) == pytest.approx(old.get(tag)), tag


def test_a_source_that_is_gone_is_said(nef, tmp_path):
    path, _, _ = nef
    image = read_raw(path)
    path.unlink()
    written = write_dng(image, tmp_path / "a.dng")
    assert any("gone" in note for note in written.notes)
    assert read_raw(tmp_path / "a.dng").iso == 3200  # read before


def small_tiff(order="<", extra=()):
    exif = [Entry.make(34855, SHORT, 800, order), Entry.make(42036, ASCII, LENS, order)]
    exif += [Entry.make(33434, RATIONAL, [(1, 125)], order)]
    block, _ = serialize_ifd(exif, 8, order)
    at = 8 + len(block) + len(block) % 2
    first, _ = serialize_ifd([Entry.make(315, ASCII, "Somebody", order), Entry.make(34665, LONG, 8, order), *extra],
                             at, order)  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + block + bytes(len(block) % 2) + first


def test_fujifilm_and_canon_containers_are_understood(tmp_path):
    tiff = small_tiff(">")
    app = b"Exif\0\0" + tiff
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    jpeg = b"\xff\xd8" + b"".join(b"\xff\xe1" + struct.pack(">H", len(a) + 2) + a for a in (app, xmp)) + b"\xff\xda"
    raf = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 100, len(jpeg)) + bytes(8) + jpeg
    (tmp_path / "a.raf").write_bytes(raf)

    def box(name, body):
        return struct.pack(">I", len(body) + 8) + name + body

    gps, _ = serialize_ifd([Entry.make(1, ASCII, "N")], 8)
    parts = box(b"CMT1", small_tiff()) + box(b"CMT2", b"II*\0\x08\0\0\0" + serialize_ifd(
        [Entry.make(34855, SHORT, 800), Entry.make(42036, ASCII, LENS)], 8)[0])  # fmt: skip
    parts += box(b"CMT3", b"") + box(b"CMT4", b"II*\0\x08\0\0\0" + gps)
    parts += box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP)
    (tmp_path / "a.cr3").write_bytes(struct.pack(">I", 24) + b"ftypcrx " + bytes(12) + parts)

    for name in ("a.raf", "a.cr3"):
        carried = carried_metadata(tmp_path / name)
        assert carried.image[315].text() == "Somebody"
        assert carried.exif[34855].values("<") == (800,)
        assert carried.exif[42036].text() == LENS
        assert carried.image[700].data == XMP
    assert carried.gps[1].text() == "N"
    assert "maker note" in carried.notes[0]


def test_damaged_metadata_are_said_and_do_not_stop_the_picture(nef, tmp_path):
    path, _, _ = nef
    image = read_raw(path)
    path.write_bytes(path.read_bytes()[:-200])
    written = write_dng(image, tmp_path / "a.dng")
    assert any("not carried" in note for note in written.notes)


def test_sidecars_follow_the_output_under_both_customs(tmp_path):
    raw, output = tmp_path / "IMG_1.NEF", tmp_path / "out" / "IMG_1_denoised.dng"
    (tmp_path / "IMG_1.xmp").write_bytes(XMP)
    (tmp_path / "img_1.nef.XMP").write_bytes(XMP + b" darktable")
    (tmp_path / "IMG_10.xmp").write_bytes(b"another picture's")
    copied = copy_sidecars(raw, output)
    assert {p.name: p.read_bytes() for p in copied} == {
        "IMG_1_denoised.xmp": XMP, "IMG_1_denoised.dng.xmp": XMP + b" darktable",
    }  # fmt: skip
    assert sorted(p.name for p in output.parent.iterdir()) == sorted(p.name for p in copied)
    with pytest.raises(OutputExistsError):
        copy_sidecars(raw, output)
    copy_sidecars(raw, output, overwrite=True)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_adds_what_is_missing_and_says_it(nef, tmp_path):
    path, mosaic, _ = nef
    image = read_raw(path)
    image.metadata.source.rename(tmp_path / "hidden.nef")
    write_dng(image, tmp_path / "a.dng")  # nothing carried: the source is gone
    added = add_missing(tmp_path / "hidden.nef", tmp_path / "a.dng")
    assert {"GPS:GPSLatitude", "IFD0:Artist"} <= set(added)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.dng").raster, mosaic)


def test_a_color_profile_of_three_illuminants_is_carried_whole(tmp_path):
    # DNG 1.6: CalibrationIlluminant3 ... ForwardMatrix3, IlluminantData1 to 3, ProfileHueSatMapData3, ReductionMatrix3
    profile = [Entry.make(tag, SHORT, tag % 100) for tag in (*range(52529, 52536), 52537, 52538)]
    (tmp_path / "a.dng").write_bytes(small_tiff(extra=[Entry.make(50706, BYTE, bytes((1, 6, 0, 0))), *profile]))
    carried = carried_metadata(tmp_path / "a.dng").image
    assert {e.tag: e.data for e in profile}.items() <= {t: e.data for t, e in carried.items()}.items()


def test_a_big_endian_tag_is_swapped_by_its_numbers():
    tiff = TiffFile.parse(small_tiff(">"))
    assert tiff.ifd(8).get(33434) == (1 / 125,)
