"""Do other programs open what rawkit writes, and are all tags that do not describe the raw data still there?

    python benchmarks/dng_compatibility.py FOLDER [--only PART_OF_NAME] [--stub-above 5] [--keep FOLDER]

For every raw file of the folder: denoise the whole picture, write it the way ``rawkit denoise`` does, then

    opening    LibRaw (rawpy), darktable-cli, rawtherapee-cli, dcraw: source / output.  "-" is not opened, "?" a
               headless file known by its length alone.  A number is the mean absolute difference of the renderings in
               8-bit levels at 200 x 150 pixels: denoising itself, and automatic noise reduction left out, change a
               little; another color or a shift of phase changes a lot (12_ImageStats: no reader applies the source's
               OpcodeList2 curve, all show it magenta; the output is linear and shown right).  Files
               below 0.4 MB are given to RawTherapee with zeros appended, which it otherwise refuses for their size
    validate   warnings of ``exiftool -validate`` that the source does not have
    tags       names that went, and names whose value changed, beyond raw storage, levels, noise, digests and previews

Denoiser: the classical one at strength 0.3.  Demosaiced pictures above --stub-above megapixels, and test charts without
noise to estimate, take means of 3 x 3 pixels instead, which changes every pixel as well.  A headless Nikon mosaic is
described here, because nothing in the file does.  Programs that are not installed are left out.  Deterministic.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

import rawkit
from rawkit.errors import ProfileError, RawkitError
from rawkit.raw.dng import is_dng
from rawkit.raw.image import LinearImage
from rawkit.raw.mosaic import MosaicSpec

STRENGTH = 0.3
TIMEOUT = 300  # s per program and file
SIZE = (200, 150)
SMALL = 400_000  # bytes
HEADLESS = {
    "nikon_dsc1339_768x512_rggb_u16le.raw": MosaicSpec(
        width=768, height=512, dtype="uint16", cfa="RGGB", black_level=600.0, white_level=16383.0, iso=200.0
    )
}
# What a denoised picture may change: storage of raw data and previews, levels, noise, identity.
MAY_CHANGE = {
    "BitsPerSample", "Compression", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts", "StripOffsets",
    "StripByteCounts", "RowsPerStrip", "PlanarConfiguration", "Predictor", "SampleFormat", "RowInterleaveFactor",
    "ColumnInterleaveFactor", "JXLDistance", "JXLEffort", "JXLDecodeSpeed", "BlackLevel", "BlackLevelRepeatDim",
    "WhiteLevel", "LinearizationTable", "OpcodeList2", "NoiseProfile", "NoiseReductionApplied", "NewRawImageDigest",
    "RawImageDigest", "RawDataUniqueID", "DNGVersion", "DNGBackwardVersion", "SubfileType", "SamplesPerPixel",
    "PreviewApplicationName", "PreviewApplicationVersion", "PreviewColorSpace", "PreviewDateTime",
    "PreviewSettingsName", "PreviewSettingsDigest", "PreviewImage", "PreviewImageStart", "PreviewImageLength",
    "JpgFromRaw", "JpgFromRawStart", "JpgFromRawLength", "ThumbnailTIFF", "YCbCrSubSampling", "YCbCrCoefficients",
    "ReferenceBlackWhite", "YCbCrPositioning", "PreviewTIFF", "SubTileBlockSize", "SR2SubIFDOffset", "CacheVersion",
}  # fmt: skip


def run(*command, **options):
    """Standard output of a program, None when it fails."""
    try:
        done = subprocess.run(
            [str(c) for c in command],
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
            **options,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def libraw(path, _):
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            return raw.postprocess(half_size=True, use_camera_wb=True)
    except (rawpy.LibRawError, RuntimeError):
        return None


def picture(path):
    if not path.exists():
        return None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def darktable(path, scratch):
    out = scratch / "darktable.jpg"
    out.unlink(missing_ok=True)
    run("darktable-cli", path, out, "--width", 800, "--core", "--configdir", scratch / "dt", "--library", ":memory:")
    return picture(out)


def rawtherapee(path, scratch):
    if path.stat().st_size < SMALL:  # RawTherapee 5.9 turns tiny files down for their size; the same with zeros behind
        shutil.copyfile(path, scratch / "padded.dng")
        path = scratch / "padded.dng"
        with path.open("ab") as file:
            file.write(bytes(SMALL))
    out = scratch / "rawtherapee.jpg"
    out.unlink(missing_ok=True)
    run("rawtherapee-cli", "-o", out, "-Y", "-j90", "-c", path)
    return picture(out)


def dcraw(path, scratch):
    data = run("dcraw", "-c", "-h", "-w", path)
    if not data:
        return None
    (scratch / "dcraw.ppm").write_bytes(data)
    try:
        return picture(scratch / "dcraw.ppm")
    except OSError:
        return None


READERS = {"LibRaw": libraw, "darktable-cli": darktable, "rawtherapee-cli": rawtherapee, "dcraw": dcraw}


def compared(reader, source, output, scratch):
    """``source/output``: what a program makes of both."""
    before, after = reader(source, scratch), reader(output, scratch)
    if source.name in HEADLESS:
        return f"?/{'-' if after is None else 'ok'}"
    if before is None or after is None:
        return f"{'-' if before is None else 'ok'}/{'-' if after is None else 'ok'}"
    small = [np.asarray(Image.fromarray(p).resize(SIZE, Image.Resampling.BOX), float) for p in (before, after)]
    return f"ok/ok {np.abs(small[0] - small[1]).mean():.1f}"


def tool_warnings(path):
    listed = (run("exiftool", "-validate", "-warning", "-error", "-a", "-s", path) or b"").decode("utf-8", "replace")
    return {line.split(":", 1)[1].strip() for line in listed.splitlines() if line.startswith(("Warning", "Error"))}


def tags(path):
    listed = json.loads(run("exiftool", "-j", "-G1", "-a", "-n", "-q", "-q", path) or b"[{}]")[0]
    skipped = ("System", "File", "ExifTool", "Composite", "SourceFile")
    return {name: value for name, value in listed.items() if name.split(":")[0] not in skipped}


def tag_difference(source, output):
    before, after = tags(source), tags(output)
    relevant = {name for name in before if name.split(":")[-1] not in MAY_CHANGE}
    gone = sorted(name for name in relevant if name not in after)
    changed = sorted(name for name in relevant if name in after and before[name] != after[name])
    return len(relevant), gone, changed


def denoised(image, stub_above):
    pixels = image.mosaic if not isinstance(image, LinearImage) else image.pixels
    linear = isinstance(image, LinearImage)
    try:
        found = None if linear and pixels[..., 0].size > stub_above * 1e6 else rawkit.find_noise(image)
    except ProfileError:
        if not linear:
            raise
        found = None
    if found is None:
        return image.with_signal(uniform_filter(image.signal(), (3, 3, 0))), None
    return rawkit.Denoiser.load("classical")(image, found.params, strength=STRENGTH), found.params


def examine(path, scratch, stub_above):
    """One row of the table, and its details."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = rawkit.read_raw(path, mosaic=HEADLESS.get(path.name))
        clean, params = denoised(image, stub_above)
    output = scratch / f"{path.stem}_denoised.dng"
    written = rawkit.write_dng(
        clean, output, source=path if is_dng(path) else None, noise=params, noise_reduction_applied=1.0,
        whole_numbers=clean.white_level > 1, overwrite=True,
    )  # fmt: skip
    del image, clean
    row = {"form": written.form, "MB": f"{path.stat().st_size / 1e6:.1f}>{written.size / 1e6:.1f}"}
    for name, reader in READERS.items():
        row[name] = compared(reader, path, output, scratch) if name == "LibRaw" or shutil.which(name) else "not here"
    details = list(written.notes)
    if shutil.which("exiftool"):
        new = tool_warnings(output) - (tool_warnings(path) if is_dng(path) else set())
        row["new warnings"] = str(len(new))
        details += [f"new warning: {line}" for line in sorted(new)]
        if is_dng(path):
            count, gone, changed = tag_difference(path, output)
            row["tags"] = f"{count}: {len(gone)} gone, {len(changed)} changed"
            details += [f"gone: {name}" for name in gone] + [f"changed: {name}" for name in changed]
    return row, details


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--stub-above", type=float, default=5.0, help="megapixels")
    parser.add_argument("--keep", type=Path, help="folder for the outputs")
    arguments = parser.parse_args()
    print(f"commit {commit()}, {platform.machine()}, Python {platform.python_version()}, strength {STRENGTH}")
    print("| file | form | MB | " + " | ".join(READERS) + " | new warnings | tags |\n" + "|---" * 9 + "|")
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.keep or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in arguments.folder.iterdir() if arguments.only in p.name and p.suffix != ".json"):
            try:
                row, details = examine(path, scratch, arguments.stub_above)
            except RawkitError as error:
                print(f"| {path.name} | not read: {error} |" + " |" * 7, flush=True)
                continue
            columns = ["form", "MB", *READERS, "new warnings", "tags"]
            print(f"| {path.name} | " + " | ".join(row.get(name, "") for name in columns) + " |", flush=True)
            for line in details:
                print(f"    {line}", flush=True)
            failed |= (
                any(row[name].endswith("/-") and row[name] != "-/-" for name in READERS)
                or row.get("new warnings", "0") != "0"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
