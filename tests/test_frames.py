"""Which files a FrameSet takes, what it takes them for, and how they find their partners."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_dng import write
from synthetic import expose

from rawkit.errors import RawkitError
from rawkit.raw.metadata import from_tags
from rawkit.raw.tiff import SHORT, Entry
from rawkit.sensor import frames as module
from rawkit.sensor.calibrate import calibrate
from rawkit.sensor.frames import Frame, FrameSet, pairs
from rawkit.sensor.temperature import of_one_temperature, temperature_remarks

BLACK, WHITE = 512, 16383


def tags(iso=100):
    return [Entry.make(34855, SHORT, iso), Entry.make(50714, SHORT, BLACK), Entry.make(50717, SHORT, WHITE)]


def dng(folder, name, level, *, rng, iso=100, shape=(32, 48), **options):
    pixels = expose(np.full(shape, level / 2.0), system_gain=2.0, read_noise=4.0, black=BLACK, white=WHITE, rng=rng)
    return write(folder, pixels, name, raw_tags=tags(iso), **options)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that were decoded, in order."""
    names = []
    read = Frame.read

    def counted(self):
        names.append(self.path.name)
        return read(self)

    monkeypatch.setattr(Frame, "read", counted)
    return names


def test_named_files_are_not_decoded_on_opening(tmp_path, decoded):
    rng = np.random.default_rng(0)
    for name in ("dark_1.dng", "flat_1.dng"):
        dng(tmp_path, name, 2000.0, rng=rng)
    assert [f.kind for f in FrameSet.open(tmp_path).frames] == ["dark", "flat"]
    assert decoded == []


def test_unnamed_files_are_sorted_by_level(tmp_path, decoded):
    rng = np.random.default_rng(0)
    for name, level in (("a.dng", 0.0), ("b.dng", 3000.0), ("c.dng", 80.0)):
        dng(tmp_path, name, level, rng=rng)
    found = FrameSet.open(tmp_path)
    assert [(f.path.name, f.kind) for f in found.frames] == [("a.dng", "dark"), ("b.dng", "flat")]
    (path, why), *rest = found.left_out
    assert path.name == "c.dng"
    assert "too bright for a dark" in why
    assert not why.startswith(str(tmp_path))
    assert rest == []
    assert sorted(decoded) == ["a.dng", "b.dng", "c.dng"]


def test_a_bright_preview_saves_the_decoding(tmp_path, decoded, monkeypatch):
    """A preview of 100 of 255 is no dark's; one of 20 may be either, so the pixels decide."""
    rng = np.random.default_rng(0)
    for name, level in (("a.dng", 0.0), ("b.dng", 3000.0), ("c.dng", 6000.0)):
        dng(tmp_path, name, level, rng=rng)
    bright = {"c.dng"}
    monkeypatch.setattr(module, "_has_bright_preview", lambda path: path.name in bright)
    assert [f.kind for f in FrameSet.open(tmp_path).frames] == ["dark", "flat", "flat"]
    assert sorted(decoded) == ["a.dng", "b.dng"]


def test_no_preview_is_no_evidence(tmp_path):
    assert not module._has_bright_preview(dng(tmp_path, "a.dng", 6000.0, rng=np.random.default_rng(0)))


@pytest.mark.data
def test_the_preview_of_a_daylight_photograph_is_bright(data_dir):
    assert module._has_bright_preview(data_dir / "raw" / "nikon_d5000_hdrmerge1_ljpeg.dng")


def test_sidecars_are_no_frames(tmp_path):
    for name in ("dark_0.npy", "dark_1.npy"):
        np.save(tmp_path / name, np.full((8, 8), 64, np.uint16))
        (tmp_path / f"{name}.json").write_text('{"cfa": "RGGB", "black_level": 64, "white_level": 1023, "iso": 100}')
    found = FrameSet.open(tmp_path)
    assert len(found.frames) == 2
    assert found.left_out == ()


def test_another_camera_and_another_size_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        dng(tmp_path, f"dark_{i}.dng", 0.0, rng=rng)
    dng(tmp_path, "dark_small.dng", 0.0, rng=rng, shape=(24, 48))
    dng(
        tmp_path,
        "dark_other.dng",
        0.0,
        rng=rng,
        first_tags=[Entry.make(272, 2, "Other"), Entry.make(50708, 2, "Other")],
    )
    found = FrameSet.open(tmp_path)
    reasons = {path.name: why for path, why in found.left_out}
    assert "48x24, differs" in reasons.pop("dark_small.dng")
    assert "Maker Other" in reasons.pop("dark_other.dng")
    assert reasons == {}
    assert len(found.frames) == 3


def memory_frames(tmp_path, levels, **changes):
    """Headless flats of one exposure."""
    rng = np.random.default_rng(1)
    made = []
    for i, level in enumerate(levels):
        path = tmp_path / f"{i}.npy"
        np.save(path, expose(np.full((16, 16), level / 2.0), system_gain=2.0, read_noise=4.0, rng=rng))
        made.append(Frame(path, "flat", 100.0, 0.01, None, BLACK, WHITE, "MONO"))
    return [replace(f, **{k: v[i] for k, v in changes.items()}) for i, f in enumerate(made)]


def test_a_stray_frame_does_not_cost_the_others_their_partners(tmp_path):
    found = list(pairs(memory_frames(tmp_path, (2000.0, 9000.0, 2000.0, 5000.0, 5000.0))))
    paired = [frame.path.stem for frame, result in found if not isinstance(result, str)]
    alone = [(frame.path.stem, result) for frame, result in found if isinstance(result, str)]
    assert paired == ["0", "3"]
    assert alone == [("1", "no second frame of the same exposure, level and temperature to pair it with")]


def test_levels_that_alternate_find_each_other(tmp_path):
    found = list(pairs(memory_frames(tmp_path, (2000.0, 4000.0, 6000.0) * 2)))
    assert not any(isinstance(result, str) for _, result in found)
    assert len(found) == 3


def test_frames_of_different_temperature_make_no_pair(tmp_path):
    found = list(pairs(memory_frames(tmp_path, (2000.0, 2000.0), temperature=(20.0, 30.0))))
    assert all(isinstance(result, str) for _, result in found)
    assert len(list(pairs(memory_frames(tmp_path, (2000.0, 2000.0), temperature=(20.0, 21.0))))) == 1


def test_a_single_dark_with_light_in_it_is_named(tmp_path):
    darks = memory_frames(tmp_path, (0.0, 0.0, 60.0, 0.0, 0.0), kind=("dark",) * 5)
    (alone,) = [(frame.path.stem, result) for frame, result in pairs(darks) if isinstance(result, str)]
    assert alone[0] == "2"
    assert "60 DN above" in alone[1] or "59 DN above" in alone[1] or "61 DN above" in alone[1]
    assert "light leaked in" in alone[1]


def test_temperature_is_read_where_it_is_recorded():
    assert from_tags({"MakerNote CameraTemperature": ["31 C"]}).temperature == 31.0
    assert from_tags({"EXIF Tag 0x9400": [-4.5]}).temperature == -4.5
    assert from_tags({"EXIF Tag 0x9400": ["unreadable"]}).temperature is None
    assert from_tags({}).temperature is None


def dark(temperature, exposure=1.0):
    return Frame(Path("no file"), "dark", 100.0, exposure, temperature)


def test_darks_are_grouped_by_temperature():
    warming = [dark(t) for t in (20.0, 21.0, 22.5, 24.0)]
    assert of_one_temperature(warming, []) == (tuple(warming), {})
    hot = [dark(40.0), dark(41.0)]
    own, others = of_one_temperature([*warming, *hot, dark(None)], [])
    assert own == (*warming, dark(None))
    assert others == {40.5: tuple(hot)}
    lit = [replace(dark(39.0), kind="flat")]
    assert of_one_temperature([*warming, *hot], lit)[0] == tuple(hot)
    assert "from 20 to 24 C" in temperature_remarks(own, {}, np.ones(1))[0]


def test_dark_current_is_reported_with_its_temperature(tmp_path):
    """4 e-/s at 20 C, 64 e-/s at 44 C: read noise from the cool darks, both dark currents told."""
    rng = np.random.default_rng(3)
    rows = ["file,kind,iso,exposure_time,temperature,black_level,white_level,cfa"]

    def save(kind, electrons, exposure, temperature):
        name = f"{len(rows)}.npy"
        np.save(tmp_path / name, expose(np.full((64, 64), electrons), system_gain=2.0, read_noise=4.0, rng=rng))
        rows.append(f"{name},{kind},100,{exposure},{temperature},{BLACK},{WHITE},MONO")

    for temperature, current in ((20.0, 4.0), (44.0, 64.0)):
        for exposure in (0.1, 0.5, 1.0, 2.0):
            for _ in range(2):
                save("dark", current * exposure, exposure, temperature)
    for level in (200.0, 800.0, 2000.0, 3000.0):
        for _ in range(2):
            save("flat", level, 0.01, 21.0)
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    result = calibrate(FrameSet.open(tmp_path), model="Mock", spatial=False)
    details = result.profile.details[100.0]
    assert details.dark_temperature == 20.0
    # Mean of 64 x 64 pixels of variance 16 to 32 DN^2, four exposures: 0.06 e-/s.
    assert np.atleast_1d(details.dark_current)[0] == pytest.approx(4.0, abs=0.25)
    (remark,) = [r for r in details.remarks if "44.0 C" in r]
    assert float(remark.split(": ")[1].split()[0]) == pytest.approx(64.0, abs=0.8)
    assert sum("44.0 C" in why for _, why in result.left_out) == 8
    assert result.profile.noise.at(100).read_var[0] == pytest.approx(16 + 1 / 12, rel=0.06)  # 8,192 pixels: 1.6 %


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,kind\na.png,flat\xff\n", "UTF-8"),
        (b"file,kind,iso,white_level,cfa\nflat.npy,flat,100,4095,409\n", "409"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path, content, message):
    np.save(tmp_path / "flat.npy", np.full((16, 16), 900, np.uint16))
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(RawkitError, match=message):
        FrameSet.open(tmp_path / "manifest.csv").frames[0].read()


def test_an_npy_header_that_python_cannot_parse_is_left_out(tmp_path):
    np.save(tmp_path / "flat.npy", np.full((16, 16), 900, np.uint16))
    data = bytearray((tmp_path / "flat.npy").read_bytes())
    data[20] = ord("(")
    (tmp_path / "flat.npy").write_bytes(data)
    with pytest.raises(RawkitError, match="npy file is damaged"):
        FrameSet.from_files([tmp_path / "flat.npy"])
