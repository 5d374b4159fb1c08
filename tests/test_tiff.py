"""TIFF directories: what is written is read back, in both byte orders; damage is refused."""

import math
import struct

import pytest

from rawkit.errors import UnsupportedRawError
from rawkit.raw.tiff import ASCII, BYTE, DOUBLE, LONG, RATIONAL, SHORT, SRATIONAL, Entry, Ifd, TiffFile, serialize_ifd

VALUES = [
    (254, LONG, [0]),
    (256, SHORT, [40000]),
    (258, SHORT, [16, 16, 16]),
    (271, ASCII, "Maker"),
    (272, ASCII, "M"),
    (50714, RATIONAL, [(1025, 2), (0, 0)]),
    (50721, SRATIONAL, [(-1, 4), (3, 1)]),
    (50706, BYTE, b"\x01\x07\0\0"),
    (51041, DOUBLE, [1e-5, -2.0]),
]


def _file(order, entries=None, at=8, next_offset=0):
    made = [Entry.make(*v, order) for v in VALUES] if entries is None else entries
    directory, positions = serialize_ifd(made, at, order, next_offset)
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, at)
    return head + bytes(at - 8) + directory, positions


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_survives(order):
    data, positions = _file(order, at=20)
    file = TiffFile.parse(data)
    ifd = file.ifd(file.first_offset)
    assert file.order == order
    assert ifd.get(258) == (16, 16, 16)
    assert (ifd.first(256), ifd.first(254)) == (40000, 0)
    assert (ifd.text(271), ifd.text(272), ifd.text(999)) == ("Maker", "M", None)
    assert ifd.get(50714)[0] == 512.5
    assert math.isnan(ifd.get(50714)[1])  # 0/0: unknown
    assert ifd.get(50721) == (-0.25, 3.0)
    assert ifd.get(50706) == (1, 7, 0, 0)
    assert ifd.get(51041) == (1e-5, -2.0)
    assert ifd.get(999, (5,)) == (5,)
    assert all(ifd.entries[tag].offset == where for tag, where in positions.items())


def test_a_directory_is_laid_out_as_tiff_6_demands():
    data, positions = _file("<")
    count = struct.unpack_from("<H", data, 8)[0]
    tags = [struct.unpack_from("<H", data, 10 + 12 * i)[0] for i in range(count)]
    assert tags == sorted(tags)
    assert all(where % 2 == 0 for where in positions.values())


@pytest.mark.parametrize("order", ["<", ">"])
def test_bytes_on_disk_are_those_of_the_specification(order):
    # Entry 256 SHORT 1 value 40000: tag, type 3, count 1, value left-justified in 4 bytes.
    data, _ = _file(order, [Entry.make(256, SHORT, 40000, order)])
    assert data[8:26] == struct.pack(order + "HHHIHHI", 1, 256, 3, 1, 40000, 0, 0)


def test_chains_and_sub_directories_are_walked_once():
    sub, _ = serialize_ifd([Entry.make(254, LONG, 7)], 100)
    first, _ = serialize_ifd([Entry.make(254, LONG, 1), Entry.make(330, LONG, 100)], 8, next_offset=200)
    second, _ = serialize_ifd([Entry.make(254, LONG, 2)], 200, next_offset=8)  # points back: a loop
    data = bytearray(300)
    data[:8] = struct.pack("<2sHI", b"II", 42, 8)
    for at, part in ((8, first), (100, sub), (200, second)):
        data[at : at + len(part)] = part
    file = TiffFile.parse(bytes(data))
    assert [ifd.first(254) for ifd in file.chain()] == [1, 2]
    assert [ifd.first(254) for ifd in file.with_sub_ifds()] == [1, 7, 2]


@pytest.mark.parametrize("order", ["<", ">"])
def test_any_truncation_is_refused(order):
    data, _ = _file(order)
    for keep in range(len(data) - 4):  # the last 4 bytes may be padding and the end of the last value
        with pytest.raises(UnsupportedRawError):
            list(TiffFile.parse(data[:keep]).chain())


def test_a_count_of_four_billion_allocates_nothing():
    data = bytearray(_file("<", [Entry.make(258, SHORT, [16, 16, 16])])[0])
    struct.pack_into("<I", data, 14, 0xFFFFFFFF)
    with pytest.raises(UnsupportedRawError, match="tag 258"):
        TiffFile.parse(bytes(data)).ifd(8)


def test_other_files_are_named_for_what_they_are():
    with pytest.raises(UnsupportedRawError, match="BigTIFF"):
        TiffFile.parse(b"II+\0" + bytes(12))
    with pytest.raises(UnsupportedRawError, match="not a TIFF"):
        TiffFile.parse(b"\xff\xd8\xff\xe0" + bytes(12))
    with pytest.raises(ValueError, match="even byte"):
        serialize_ifd([], 9)


def test_more_numbers_than_a_picture_needs_are_not_unpacked():
    # Four million floats of Python take a hundred megabytes; a level has a handful.
    entry = Entry(50714, SHORT, (1 << 22) + 1, bytes(2 * (1 << 22) + 2))
    directory = Ifd(8, {50714: entry}, 0, "<")
    for read in (directory.get, directory.first, directory.whole_numbers):
        with pytest.raises(UnsupportedRawError, match="4194305 numbers"):
            read(50714)


def test_a_directory_cannot_multiply_the_file_in_memory():
    """Values that all lie in the same bytes: 100 entries of 2000 bytes each in a file of 4000."""
    head = struct.pack("<2sHIH", b"II", 42, 8, 100)
    entries = b"".join(struct.pack("<HHII", 700 + i, 7, 2000, 1500) for i in range(100))
    file = TiffFile.parse((head + entries).ljust(4000, b"\0"))
    with pytest.raises(UnsupportedRawError, match="more than the file's 4000 bytes"):
        file.ifd(8)


@pytest.mark.parametrize(
    "value", [(2, b"\x01\x07\0\0"), (RATIONAL, [(1, 2)]), (RATIONAL, [(0, 0)]), (11, [float("inf")])]
)
def test_text_and_fractions_are_no_whole_numbers(value):
    data, _ = _file("<", [Entry.make(330, *value), Entry.make(256, DOUBLE, [7.0])])
    directory = TiffFile.parse(data).ifd(8)
    assert directory.whole_numbers(256) == (7,)
    assert directory.whole_numbers(257, (1,)) == (1,)
    with pytest.raises(UnsupportedRawError, match="tag 330"):
        directory.whole_numbers(330)
