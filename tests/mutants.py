"""Damaged files for tests: small valid files of every format rawkit reads, and a seeded mutator that knows them.

``seed_files`` writes one valid file per kind of file (several for DNG); ``mutant`` damages one of them.  The same
(seed, number) gives the same bytes.  A mutation is one of

    bytes      flips, runs of one value, truncation, removal, repetition, a splice of another file of the same kind
    words      a 16- or 32-bit number replaced by one at an edge (0, 1, 2^15, 2^31 - 1, 2^32 - 1 ...)
    tags       of a TIFF directory: number, type, count or value of an entry, or the link to the next directory
    values     of JSON, of JSON within JSON and of safetensors' header: other types, NaN, huge, deeply nested
    lines      of text: removed, repeated, a word replaced
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from make_dng import build
from make_nef import write_nef

from rawkit.raw.tiff import ASCII, BYTE, DOUBLE, LONG, SHORT, UNDEFINED, Entry, TiffFile

SHAPE = (48, 64)  # pixels of the seeds: 4 x 4 tiles of 16
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 13, 14, 16, 17, 24, 32, 64, 255, 256, 32767, 32768, 34892, 52546, 65535, 65536,
         2**24, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1)  # fmt: skip
WORDS = (
    "",
    "0",
    "-1",
    "1e309",
    "nan",
    "inf",
    "x",
    "65536",
    "99999999999999999999",
    "1,2",
    '"',
    "\0",
    "../..",
    "i",
    "b",
)
XMP = (
    b'<x:xmpmeta crs:HasCrop="True" crs:CropTop="0.1" crs:CropLeft="0.1" crs:CropBottom="0.9" crs:CropRight="0.8" '
    b'crs:CropAngle="0"/>'
)
DEEP = 100_000  # brackets: deeper than any parser recurses
LAYOUT_TAGS = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 339, 50706, 50712,
               50713, 50714, 50715, 50717, 50829, 50975, 51009, 52547, 33421, 33422)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A valid file: its kind decides who reads it, its form how it is damaged."""

    name: str
    kind: str
    form: str
    data: bytes


def seed_files(*, torch: bool) -> list[Seed]:
    """One of each; weights only where torch is installed."""
    seeds = [*_dngs(), *_raws(), *_mosaics(), *_texts()]
    return [*seeds, _weights()] if torch else seeds


def _scene(bits: int = 12, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(bits)
    light = np.linspace(0.05, 0.7, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)) * (2**bits - 64)
    return np.clip(rng.normal(np.broadcast_to(light, shape), 4 + light**0.5) + 32, 0, 2**bits - 1).astype(np.uint16)


def _dngs() -> list[Seed]:
    mosaic, rgb = _scene(), _scene(12, (*SHAPE, 3))
    levels = [Entry.make(50714, SHORT, 32), Entry.make(50717, SHORT, 4095)]
    exposure = [Entry.make(34855, SHORT, 1600), Entry.make(33434, 5, [(1, 60)])]
    noise = [Entry.make(51041, DOUBLE, [2e-3, 1e-5] * 3)]
    polynomial = struct.pack(">9I2d", 0, 0, *SHAPE, 0, 1, 1, 1, 1, 0.0, 1.0)
    opcodes = struct.pack(">I", 1) + struct.pack(">4I", 8, 0x01030000, 0, len(polynomial)) + polynomial
    extras = [
        Entry.make(700, BYTE, XMP),
        Entry.make(50740, BYTE, b"Adobe\0MakN" + bytes(40)),
        Entry.make(50827, ASCII, "image.raw"),
        Entry.make(37500, UNDEFINED, bytes(64)),
    ]
    first = [*exposure, *noise, *extras]
    options: dict[str, dict[str, Any]] = {
        "plain": {"raster": mosaic, "raw_tags": levels},
        "packed": {"raster": mosaic, "bits": 12, "rows_per_strip": 16, "raw_tags": levels},
        "big_endian": {"raster": mosaic, "order": ">", "raw_tags": [Entry.make(50717, SHORT, 4095, ">")]},
        "lossless_tiles": {"raster": mosaic, "compression": 7, "bits": 12, "tile": (16, 16), "raw_tags": levels},
        "lossless_strips": {"raster": mosaic, "compression": 7, "bits": 12, "rows_per_strip": 16, "preview": True,
                            "raw_tags": levels, "fold": "components"},
        "deflate_float": {"raster": mosaic.astype(np.float32) / 4096, "compression": 8, "predictor": 3,
                          "tile": (16, 16)},
        "linear": {"raster": rgb, "cfa": None, "compression": 7, "bits": 12, "raw_tags": levels, "preview": True},
        "planar": {"raster": rgb, "cfa": None, "planar": True, "raw_tags": levels},
        "jpeg_xl": {"raster": mosaic, "compression": 52546, "tile": (24, 32), "raw_tags": levels},
        "jpeg_xl_linear": {"raster": rgb, "cfa": None, "compression": 52546, "interleave": (2, 2), "raw_tags": levels},
        "lossy": {"raster": (rgb >> 4).astype(np.uint8), "cfa": None, "compression": 34892,
                  "raw_tags": [Entry.make(51009, UNDEFINED, opcodes)]},
        "table": {"raster": (mosaic >> 4).astype(np.uint8), "preview": True,
                  "raw_tags": [Entry.make(50712, SHORT, range(0, 4096, 16)), Entry.make(50829, LONG, [0, 0, 44, 60])]},
    }  # fmt: skip
    seeds = []
    for name, option in options.items():
        tags = [_in_order(e, option.get("order", "<")) for e in first]
        seeds.append(Seed(f"{name}.dng", "raw", "tiff", build(first_tags=tags, **option)))
    (plain,) = [seed for seed in seeds if seed.name == "lossless_strips.dng"]
    return [*seeds, Seed("jpeg_preview.dng", "raw", "tiff", _with_jpeg_preview(plain.data))]


def _with_jpeg_preview(data: bytes) -> bytes:
    """IFD 0 shows a JPEG of 16 x 12 pixels, at the end of the file."""
    import imagecodecs

    tiff, out = TiffFile.parse(data), bytearray(data)
    entries = tiff.ifd(tiff.first_offset).entries
    picture = imagecodecs.jpeg8_encode(np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3), level=90)
    changes = {256: 16, 257: 12, 259: 7, 262: 6, 273: len(out), 278: 12, 279: len(picture)}
    for tag, value in changes.items():
        struct.pack_into("<H" if entries[tag].type == SHORT else "<I", out, entries[tag].offset, value)
    return bytes(out) + picture


def _in_order(entry: Entry, order: str) -> Entry:
    return entry if order == "<" else Entry.make(entry.tag, entry.type, entry.values("<") if entry.type not in
                                                 (ASCII, BYTE, UNDEFINED, 5) else entry.data, ">")  # fmt: skip


def _raws() -> list[Seed]:
    path = Path("shot.nef")
    seeds = []
    for order in "<>":
        held = _Held()
        write_nef(held, _scene(14, (320, 480)), order, "NIKON Z 6")  # pyright: ignore[reportArgumentType]
        seeds.append(Seed(f"{path.stem}_{'little' if order == '<' else 'big'}.nef", "raw", "tiff", held.data))
    jpeg = (
        b"\xff\xd8\xff\xe1"
        + struct.pack(">H", 8 + 26)
        + b"Exif\0\0MM\0*\0\0\0\x08\0\1\x88\x27\0\3\0\0\0\1\x06\x40\0\0\0\0\0\0"
    )
    raf = b"FUJIFILMCCD-RAW 0201FF393101".ljust(84, b"\0") + struct.pack(">II", 148, len(jpeg)) + bytes(56) + jpeg
    tiff = b"II*\0\x08\0\0\0\x01\0\x27\x88\x03\0\x01\0\0\0\x40\x06\0\0\0\0\0\0"
    boxes = b"".join(struct.pack(">I", 8 + len(tiff)) + name + tiff for name in (b"CMT1", b"CMT2"))
    cr3 = struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + struct.pack(">I", 8 + len(boxes)) + b"moov" + boxes
    return [
        *seeds,
        Seed("head.raf", "raw", "bytes", raf + bytes(256)),
        Seed("head.cr3", "raw", "bytes", cr3 + bytes(256)),
    ]


class _Held:
    """Stands in for the path of a file that is kept in memory."""

    data = b""

    def write_bytes(self, data: bytes) -> None:
        self.data = bytes(data)


def _mosaics() -> list[Seed]:
    import imagecodecs
    import tifffile

    mosaic = _scene(14)
    npy, tiff, tiled = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, mosaic)
    tifffile.imwrite(tiff, mosaic)
    tifffile.imwrite(tiled, mosaic, tile=(16, 16), compression="zlib", predictor=True)
    spec = {
        "width": SHAPE[1], "height": SHAPE[0], "dtype": "<u2", "cfa": "RGGB", "black_level": 32, "white_level": 16383,
        "iso": 800, "as_shot_neutral": [0.5, 1.0, 0.6], "orientation": 1, "make": "Maker",
    }  # fmt: skip
    return [
        Seed("mosaic.npy", "mosaic", "bytes", npy.getvalue()),
        Seed("mosaic.tif", "mosaic", "tiff", tiff.getvalue()),
        Seed("tiled.tif", "mosaic", "tiff", tiled.getvalue()),
        Seed("mosaic.png", "mosaic", "bytes", imagecodecs.png_encode(mosaic)),
        Seed("sidecar.json", "sidecar", "json", json.dumps(spec).encode()),
    ]


def _texts() -> list[Seed]:
    from rawkit.batch import Record
    from rawkit.resources import bundled_profiles, data_folder

    names = ("sonya7s2_pmn.json", "nikond850_eld.json")
    profiles = [Seed(p.name, "profile", "json", p.read_bytes()) for p in bundled_profiles() if p.name in names]
    fits = [{"name": f"iso {i}", "iso": i, "a": [i * 1e-7] * 3, "b": [i**2 * 1e-13] * 3} for i in (200, 400, 800, 1600)]
    camera = {"model": "D5000", "profiles": fits}
    darktable = {"version": 0, "noiseprofiles": [{"maker": "Nikon", "models": [camera]}]}
    law = {"slope": 0.8, "bias": 0.5, "sigma": 0.1}
    eld = {
        "Kmin": 0.2,
        "Kmax": 15.0,
        "Profile-1": {"g_scale": law, "G_scale": law, "R_scale": law},
        "G_shape": [0.1, 0.2],
    }
    table = "iso,phase,system_gain [DN/e-],read_var [DN^2]\n" + "".join(
        f"{iso},{phase},{iso / 500},{iso / 50}\n" for iso in (100, 200, 400) for phase in ("R", "Gr", "Gb", "B")
    )
    emva = "v 3.0\nn 12 64 48\n" + "".join(
        f"b {time} {time / 10}\ni flat.png\ni flat.png\nd {time}\ni dark.png\ni dark.png\n" for time in (1e6, 2e6, 4e6)
    )
    manifest = "file,kind,iso,exposure_time,black_level,white_level,cfa\n" + "".join(
        f"{kind}.png,{kind},100,{time},32,4095,RGGB\n" for kind in ("flat", "dark") for time in (0.1, 0.2)
    )
    record = Record("a_denoised.dng", "0" * 64, "a.dng", "1" * 64, {"model": "classical", "strength": 1.0}, "0.1.0")
    lines = "\n".join(json.dumps(record.__dict__ | {"output": f"{name}.dng"}) for name in "abc") + "\n"
    recipe = (data_folder("models") / "recipes" / "fast.toml").read_bytes()
    return [
        *profiles,
        Seed("noiseprofiles.json", "darktable", "json", json.dumps(darktable).encode()),
        Seed("eld.json", "eld", "json", json.dumps({"params": {"Camera": eld}}).encode()),
        Seed("profile.csv", "csv", "text", table.encode()),
        Seed("emva.txt", "emva", "text", emva.encode()),
        Seed("manifest.csv", "frames", "text", manifest.encode()),
        Seed("records.jsonl", "records", "text", lines.encode()),
        Seed("recipe.toml", "recipe", "text", recipe),
    ]


def _weights() -> Seed:
    import tempfile

    import torch

    from rawkit.nn.restormer import RawRestormer, RestormerConfig
    from rawkit.nn.weights import save_network

    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.safetensors"
        save_network(
            path,
            RawRestormer(RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), head_width=8)),
            about={"name": "x"},
        )
        return Seed("tiny.safetensors", "weights", "safetensors", path.read_bytes())


# ------------------------------------------------------------------------------------------------------ mutations


def mutant(seed: Seed, others: list[Seed], rng: np.random.Generator) -> bytes:
    """The seed with one to three mutations."""
    kinds = _MUTATIONS[seed.form]
    data = seed.data
    for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
        change = kinds[rng.integers(len(kinds))]
        data = (
            change(data, rng) if change is not _splice else _splice(data, rng, others[rng.integers(len(others))].data)
        )
    return data


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Half of the damage is near the start, where headers are."""
    return int(rng.integers(max(len(data), 1) if rng.random() < 0.5 else max(min(len(data), 400), 1)))


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if out:
            out[_place(data, rng)] ^= 1 << rng.integers(8)
    return bytes(out)


def _run(data: bytes, rng: np.random.Generator) -> bytes:
    at, length = _place(data, rng), int(rng.integers(1, 64))
    return data[:at] + bytes([rng.choice([0, 255, 127, 128, 32])]) * length + data[at + length :]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    at, length = _place(data, rng), int(rng.integers(1, 200))
    return data[: at + length] + data[at : at + length] * int(rng.integers(1, 20)) + data[at + length :]


def _splice(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _word(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = _place(data, rng), int(rng.choice([2, 4]))
    value = EDGES[rng.integers(len(EDGES))] & (256**size - 1)
    return data[:at] + value.to_bytes(size, "little" if rng.random() < 0.5 else "big") + data[at + size :]


def _tag(data: bytes, rng: np.random.Generator) -> bytes:
    """One field of one directory entry of whatever is still a TIFF."""
    try:
        tiff = TiffFile.parse(data)
        directories = list(tiff.with_sub_ifds())
    except Exception:
        return _word(data, rng)
    directory = directories[rng.integers(len(directories))]
    order, out = tiff.order, bytearray(data)
    count = struct.unpack_from(order + "H", data, directory.offset)[0]
    end = directory.offset + 2 + 12 * count
    edge = EDGES[rng.integers(len(EDGES))]
    if rng.random() < 0.08 and end + 4 <= len(data):  # the next directory: a loop, or somewhere
        target = int(rng.choice([d.offset for d in directories])) if rng.random() < 0.5 else edge
        struct.pack_into(order + "I", out, end, target)
        return bytes(out)
    entries = list(range(directory.offset + 2, end, 12))
    known = [p for p in entries if struct.unpack_from(order + "H", data, p)[0] in LAYOUT_TAGS]
    chosen = known if known and rng.random() < 0.7 else entries
    if not chosen:
        return _word(data, rng)
    at = chosen[rng.integers(len(chosen))]
    kind, number, value = struct.unpack_from(order + "HII", data, at + 2)
    near = (value + int(rng.integers(-2, 3))) % 2**32
    field = rng.integers(10)
    if field == 0:
        struct.pack_into(order + "H", out, at, int(rng.choice(LAYOUT_TAGS)))
    elif field == 1:
        struct.pack_into(order + "H", out, at + 2, int(rng.choice([0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16, 65535])))
    elif field in (2, 3):
        struct.pack_into(order + "I", out, at + 4, int(rng.choice([edge, number + 1, max(number - 1, 0)])) % 2**32)
    elif kind == SHORT and number <= 2:
        struct.pack_into(order + "H", out, at + 8, int(rng.choice([edge, near, value * 2])) % 2**16)
    else:
        struct.pack_into(order + "I", out, at + 8, int(rng.choice([edge, near, value * 2])) % 2**32)
    return bytes(out)


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inner for found in _paths(part, (*path, key)))]


def _strange(old: Any, rng: np.random.Generator) -> Any:
    number = old if isinstance(old, int | float) and not isinstance(old, bool) else 1.0
    values = (
        None, True, "", "x" * 5000, "\0\n<b>", "nan", [], {}, [[]], [None], {"": 0}, 0, -1, -0.0, 1e-320, 1e308, 2**63,
        10**4000, float("nan"), float("inf"), -number, number * 1e30, [old], [old, old], {"a": old}, [1] * 3000,
    )  # fmt: skip
    return values[rng.integers(len(values))]


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """One value of a JSON text replaced, removed or renamed."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return _flip(data, rng)
    paths = _paths(document)
    path = paths[rng.integers(len(paths))]
    if rng.random() < 0.03:
        return b"[" * DEEP
    if not path:
        return _dumped(_strange(document, rng))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    choice = rng.random()
    if choice < 0.12:
        del holder[path[-1]]
    elif choice < 0.2 and isinstance(holder, dict):
        holder["unknown"] = holder.pop(path[-1])
    elif choice < 0.25 and isinstance(holder[path[-1]], str):
        holder[path[-1]] = _json(holder[path[-1]].encode(), rng).decode("utf-8", "replace")
    else:
        holder[path[-1]] = _strange(holder[path[-1]], rng)
    return _dumped(document)


def _dumped(document: Any) -> bytes:
    text = json.dumps(document, default=str)
    return text.encode("utf-8", "replace")


def _header(data: bytes, rng: np.random.Generator) -> bytes:
    """safetensors: 8 bytes of length, JSON, tensors."""
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    header = data[8 : 8 + size]
    changed = _json(header, rng)
    if rng.random() < 0.5:
        try:
            document = json.loads(header)
            about = document["__metadata__"]
            about["config"] = _json(about["config"].encode(), rng).decode("utf-8", "replace")
            changed = _dumped(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
    length = len(changed) if rng.random() < 0.9 else int(rng.integers(2**62))
    return struct.pack("<Q", length) + changed + data[8 + size :]


def _line(data: bytes, rng: np.random.Generator) -> bytes:
    """A line of text removed, repeated, or one of its words replaced."""
    lines = data.decode("utf-8", "replace").split("\n")
    at, choice = int(rng.integers(len(lines))), rng.random()
    if choice < 0.2:
        del lines[at]
    elif choice < 0.3:
        lines[at:at] = [lines[at]] * int(rng.integers(1, 50))
    else:
        for separator in (",", " ", "=", ":"):
            words = lines[at].split(separator)
            if len(words) > 1:
                words[rng.integers(len(words))] = WORDS[rng.integers(len(WORDS))]
                lines[at] = separator.join(words)
                break
        else:
            lines[at] = WORDS[rng.integers(len(WORDS))]
    return "\n".join(lines).encode()


_BYTES: tuple[Callable, ...] = (_flip, _run, _cut, _remove, _repeat, _splice, _word)
_MUTATIONS: dict[str, tuple[Callable, ...]] = {
    "bytes": (*_BYTES, _word, _word),
    "tiff": (*_BYTES, *[_tag] * 14),
    "json": (*_BYTES, *[_json] * 14),
    "safetensors": (*_BYTES, *[_header] * 14),
    "text": (*_BYTES, *[_line] * 14),
}
