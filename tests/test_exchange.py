"""Other programs' formats: values by hand, round trips, refusals."""

import json
import math

import numpy as np
import pytest

from rawkit.errors import ProfileError
from rawkit.sensor.exchange import (
    compare,
    dng_noise_profile,
    dng_noise_profile_text,
    eld_parameters,
    from_csv,
    from_darktable,
    from_eld,
    save_darktable,
    to_csv,
    to_darktable,
    to_eld,
)
from rawkit.sensor.iso_details import IsoDetails
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel

PHASES = ("R", "Gr", "Gb", "B")
SPAN = 16000.0


def bayer(isos=(100, 200, 400, 800), **changes):
    """K = 0.01 ISO, sigma = 2 e-; 14 bit, span 16000 DN; green 10 % above red and blue."""
    colors = np.array([1.0, 1.1, 1.1, 1.0])
    table = [
        (
            float(i),
            NoiseParams(0.01 * i * colors, (0.02 * i * colors) ** 2, 1e-5 * i * colors, (4e-4 * i * colors) ** 2),
        )
        for i in isos
    ]
    fields = {"phases": PHASES, "cfa": "RGGB", "bit_depth": 14, "black_level": (383.0,) * 4, "white_level": 16383.0}
    return CameraProfile("NIKON CORPORATION", "NIKON Z 9", NoiseModel(table), **(fields | changes))


def test_darktable_values_are_k_and_v_on_the_unit_scale(tmp_path):
    save_darktable([bayer()], tmp_path / "n.json")
    document = json.loads((tmp_path / "n.json").read_text())
    assert document["version"] == 0
    named = {(m["maker"], e["model"]): e for m in document["noiseprofiles"] for e in m["models"]}
    # As darktable cleans it, and as EXIF says.
    assert {("Nikon", "Z 9"), ("Nikon", "NIKON Z 9"), ("NIKON CORPORATION", "NIKON Z 9")} <= set(named)
    for entry in named.values():
        assert [p["iso"] for p in entry["profiles"]] == [100, 200, 400, 800]
        first = entry["profiles"][0]
        assert first["a"] == pytest.approx([1 / SPAN, 1.1 / SPAN, 1 / SPAN])
        assert first["b"] == pytest.approx([4 / SPAN**2, 4.84 / SPAN**2, 4 / SPAN**2])
        assert isinstance(first["name"], str)
    with pytest.raises(ProfileError, match="darktable wants 4"):
        to_darktable([bayer((100, 200))])


def test_darktable_round_trip(tmp_path):
    save_darktable([bayer()], tmp_path / "n.json")
    again = from_darktable(tmp_path / "n.json", "nikon z 9")
    assert again.span == 1.0
    assert again.phases == ("R", "G", "B")
    for row in compare(bayer(), again):
        assert row.gain_ratio == pytest.approx(1.0, rel=1e-12)
        assert row.read_noise_ratio == pytest.approx(1.0, rel=1e-12)
        assert math.isnan(row.gain_ratio_se)  # darktable states none
    again.save(tmp_path / "p.json")
    assert CameraProfile.load(tmp_path / "p.json").to_dict() == again.to_dict()
    with pytest.raises(ProfileError, match=r"does not list the camera 'Z'.*near: .*Z 9"):
        from_darktable(tmp_path / "n.json", "Z")


def test_darktable_import_knows_switches_and_failed_fits(tmp_path):
    def entry(iso, read_e):
        a = 1e-8 * iso
        return {"name": "x", "iso": iso, "a": [a, a, 0.0], "b": [(read_e * a) ** 2] * 2 + [-1e-9]}

    isos = (100, 200, 400, 800, 1600, 3200, 6400)
    entries = [entry(i, 20 * (100 / i) ** 0.3 * (0.4 if i >= 800 else 1)) for i in isos]
    entries[0]["b"] = [-1e-9] * 3
    entries[1]["b"] = [(0.01 * 2e-6) ** 2] * 3  # 0.01 e-
    document = {"version": 0, "noiseprofiles": [{"maker": "ACME", "models": [{"model": "One", "profiles": entries}]}]}
    (tmp_path / "n.json").write_text(json.dumps(document))
    profile = from_darktable(tmp_path / "n.json", "ACME One")
    assert profile.noise.gain_switches == (800.0,)
    params = dict(profile.noise.table)
    assert params[100.0].system_gain[2] == params[100.0].system_gain[1]  # green stands in for blue
    assert np.all(params[100.0].read_var == 0)
    assert np.all(params[200.0].read_var == 0)
    assert profile.provenance["implausible_read_noise_left_out_at"] == [200.0]


def test_dng_values_by_hand():
    pairs = dng_noise_profile(bayer(), 200)
    expected = [(2 / SPAN, 16 / SPAN**2), (2.2 / SPAN, 19.36 / SPAN**2), (2 / SPAN, 16 / SPAN**2)]
    assert np.allclose(pairs, expected, rtol=1e-12)
    text = dng_noise_profile_text(bayer(), 200)
    assert np.allclose([float(v) for v in text.split()], np.ravel(expected), rtol=1e-9)
    gray = CameraProfile(
        "A", "M", NoiseModel([(100, NoiseParams(2.0, 9.0))]), black_level=(0.0,), white_level=1000.0, cfa="MONO"
    )
    assert dng_noise_profile(gray, 100) == ((2.0 / 1000, 9.0 / 1e6),)


ELD = {
    "Kmin": 0.2, "Kmax": 12.8, "G_shape": [0.1, 0.2],
    "Profile-1": {
        "g_scale": {"slope": 0.7, "bias": 1.5, "sigma": 0.2},
        "R_scale": {"slope": 0.5, "bias": -0.8, "sigma": 0.3},
        "G_scale": {"slope": 0.6, "bias": 1.0, "sigma": 0.2},
    },
}  # fmt: skip


def test_eld_import_is_the_published_law():
    profile = from_eld(ELD, make="A", model="B")
    for iso, params in profile.noise.table:
        gain = 0.2 * iso / 100  # 64 times over six stops
        gaussian, row = math.exp(0.7 * math.log(gain) + 1.5), math.exp(0.5 * math.log(gain) - 0.8)
        assert float(params.system_gain) == pytest.approx(gain)
        assert float(params.read_var) == pytest.approx(gaussian**2 + row**2)
        assert float(params.read_var_se) == pytest.approx(2 * math.hypot(0.2 * gaussian**2, 0.3 * row**2))
        assert profile.details[iso].row_noise == pytest.approx(row)
    with pytest.raises(ProfileError, match="not ELD parameters"):
        from_eld({"Kmin": 1.0}, make="A", model="B")


def test_eld_round_trip():
    document = to_eld(from_eld(ELD, make="A", model="B"))
    assert document["Kmin"] == pytest.approx(0.2)
    assert document["Kmax"] == pytest.approx(12.8)
    for name in ("g_scale", "R_scale", "G_scale"):
        law, true = document["Profile-1"][name], ELD["Profile-1"][name]
        assert law["slope"] == pytest.approx(true["slope"], rel=1e-9)
        assert law["bias"] == pytest.approx(true["bias"], rel=1e-9)
        assert law["sigma"] == pytest.approx(0.0, abs=1e-9)


def test_eld_export_fits_each_gain_segment_by_itself():
    def entry(iso):
        return float(iso), NoiseParams(0.01 * iso, (3.0 * iso**0.4 * (0.3 if iso >= 1600 else 1)) ** 2)

    isos = (100, 200, 400, 800, 1600, 3200, 6400)
    document = to_eld(CameraProfile("A", "B", NoiseModel([entry(i) for i in isos], (1600,))))
    low, high = document["Profile-1"]["g_scale"], document["Profile-2"]["g_scale"]
    assert low["slope"] == pytest.approx(0.4)
    assert high["slope"] == pytest.approx(0.4)
    assert high["bias"] - low["bias"] == pytest.approx(math.log(0.3))
    assert "R_scale" not in document["Profile-1"]


def test_csv_round_trip(tmp_path):
    model = bayer().noise
    full = CameraProfile(
        "A", "B", NoiseModel(model.table, (400,), (200,)), PHASES, "RGGB", 14, (512.0,) * 4, 16383.0,
        aliases=("A, B", 'the "B"'), serial="7", provenance={"method": "m: n"},
        details={
            100.0: IsoDetails(
                row_noise=(1.0, 2.0, 2.5, 3.0), prnu=0.01, prnu_se=1e-4, dark_frames=16, remarks=("a", "b")
            )
        },
    )  # fmt: skip
    to_csv(full, tmp_path / "p.csv")
    header = next(line for line in (tmp_path / "p.csv").read_text().splitlines() if line.startswith("iso"))
    assert "system_gain [DN/e-]" in header
    assert "read_var_se [DN^2]" in header
    assert "row_noise [DN]" in header
    assert from_csv(tmp_path / "p.csv").to_dict() == full.to_dict()
    bare = CameraProfile("A", "B", NoiseModel([(100, NoiseParams(1.0, 4.0)), (200, NoiseParams(2.0, 9.0))]))
    to_csv(bare, tmp_path / "q.csv")
    assert from_csv(tmp_path / "q.csv").to_dict() == bare.to_dict()


def test_a_spreadsheet_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("iso,system_gain,read_var [DN^2]\n200,2,9\n100,1,4\n")
    profile = from_csv(path, make="ACME", model="One")
    assert profile.noise.isos == (100.0, 200.0)
    assert profile.name == "ACME One"
    for text, message in {
        "iso,read_var\n100,4\n": "lacks the column system_gain",
        "iso,system_gain [e-/DN],read_var\n100,1,4\n": "system_gain is in e-/DN, needed is DN/e-",
        "iso,system_gain,read_var\n100,one,4\n": "'one' is not a number",
        "": "no rows",
        "iso,phase,system_gain,read_var\n100,R,1,4\n100,B,1,4\n200,R,2,9\n": "ISO 200 has the phases R",
    }.items():
        path.write_text(text)
        with pytest.raises(ProfileError, match=message) as caught:
            from_csv(path)
        assert "\n" not in str(caught.value)


def test_comparison_is_in_electrons_and_on_the_unit_scale():
    # The same camera at 12 bit, K 2 % higher, read noise in e- 5 % lower.
    other = [
        (
            i,
            NoiseParams(1.02 * p.system_gain, (0.95 * 1.02) ** 2 * p.read_var, p.system_gain_se, p.read_var_se).scaled(
                0.25
            ),
        )
        for i, p in bayer((100, 400, 800, 1600)).noise.table
    ]
    b = CameraProfile("A", "B", NoiseModel(other), PHASES, black_level=(95.75,) * 4, white_level=4095.75)
    rows = compare(bayer(), b)
    assert sorted({row.iso for row in rows}) == [100.0, 200.0, 400.0, 800.0]
    for row in rows:
        assert row.gain_ratio == pytest.approx(1.02, rel=1e-9)
        assert row.read_noise_ratio == pytest.approx(0.95, rel=1e-9)
        assert row.origins == ("measured", "interpolated" if row.iso == 200 else "measured")
        if row.iso != 200:
            assert row.gain_ratio_se == pytest.approx(1.02 * math.hypot(1e-3, 1e-3 / 1.02), rel=1e-9)
    far = CameraProfile("A", "B", NoiseModel([(25600, NoiseParams(1.0, 1.0))]), bit_depth=12)
    with pytest.raises(ProfileError, match="share no ISO"):
        compare(bayer(), far)


@pytest.mark.data
def test_eld_files_make_the_bundled_profiles(data_dir):
    from rawkit.resources import bundled_profiles

    published = json.loads((data_dir / "profiles" / "eld_camera_params.json").read_text())["params"]
    names = {
        "CanonEOS5D4": "canoneos5d4_eld",
        "CanonEOS700D": "canoneos700d_eld",
        "CanonEOS70D": "canoneos70d_eld",
        "NikonD850": "nikond850_eld",
        "SonyA7S2": "sonya7s2_eld",
    }
    for camera, stem in names.items():
        bundled = CameraProfile.load(next(p for p in bundled_profiles() if p.stem == stem))
        made = from_eld(published[camera], make=bundled.make, model=bundled.model)
        for (iso, ours), (theirs_iso, theirs) in zip(made.noise.table, bundled.noise.table, strict=True):
            assert iso == theirs_iso
            assert float(ours.system_gain) == pytest.approx(float(theirs.system_gain), rel=1e-5)
            assert float(ours.read_var) == pytest.approx(float(theirs.read_var), rel=1e-5)
            assert float(ours.read_var_se) == pytest.approx(float(theirs.read_var_se), rel=0.01)
            for name in ("row_noise", "row_noise_se", "tukey_scale", "tukey_lambda"):
                expected = getattr(made.details[iso], name)
                assert getattr(bundled.details[iso], name) == pytest.approx(expected, rel=1e-6)


@pytest.mark.data
def test_every_third_camera_of_darktable_survives_the_profile_format(data_dir):
    from rawkit.sensor.exchange import darktable_cameras

    path = data_dir / "profiles" / "darktable_noiseprofiles.json"
    for name, _ in darktable_cameras(path)[::30]:
        profile = from_darktable(path, name)
        again = CameraProfile.from_dict(json.loads(json.dumps(profile.to_dict())))
        assert again.to_dict() == profile.to_dict()


@pytest.mark.parametrize(
    "entry",
    [{}, {"iso": 100}, {"iso": "x", "a": [1] * 3, "b": [1] * 3}, {"iso": 100, "a": [1] * 3, "b": [[1], 2, 3]},
     {"iso": 100, "a": [1, 2], "b": [1] * 3}, {"iso": 100, "a": 1, "b": [1] * 3}, 0.5,
     {"iso": -1, "a": [1] * 3, "b": [1] * 3}],
)  # fmt: skip
def test_entries_that_are_not_darktables_are_refused(tmp_path, entry):
    maker = {"maker": "A", "models": [{"model": "B", "profiles": [entry]}]}
    (tmp_path / "noise.json").write_text(json.dumps({"noiseprofiles": [maker]}))
    with pytest.raises(ProfileError, match="darktable"):
        from_darktable(tmp_path / "noise.json", "A B")


@pytest.mark.parametrize(
    ("path", "value"),
    [("Kmin", -1.0), ("Kmin", "x"), ("Kmax", 1e308), ("Profile-1", []), ("g_scale", {"slope": 1}),
     ("G_scale", {"bias": 0}),
     ("G_scale", {"slope": "x", "bias": 0}),
     ("G_scale", {"slope": 1e30, "bias": 0}), ("slope", 1e300), ("G_shape", ["x"])],
)  # fmt: skip
def test_parameters_that_are_not_elds_are_refused(path, value):
    law = {"slope": 0.8, "bias": 0.5, "sigma": 0.1}
    parameters = {
        "Kmin": 0.2,
        "Kmax": 15.0,
        "G_shape": [0.1],
        "Profile-1": {"g_scale": dict(law), "R_scale": dict(law)},
    }
    from_eld(parameters, make="", model="A")
    inner = parameters["Profile-1"]
    holder = inner["g_scale"] if path == "slope" else inner if path in ("g_scale", "G_scale") else parameters
    holder[path] = value
    with pytest.raises(ProfileError, match=r"ELD|no camera"):
        from_eld(parameters, make="", model="A")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", '{"params": 7}', '{"other": {}}', "\xff"])
def test_a_file_without_eld_parameters_is_named(tmp_path, text):
    (tmp_path / "eld.json").write_text(text, encoding="latin-1")
    with pytest.raises(ProfileError, match="no ELD parameters of A"):
        eld_parameters(tmp_path / "eld.json", "A")


@pytest.mark.parametrize("cell", ["nan", "inf", "1e999", ""])
def test_a_table_holds_finite_numbers(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f"# remarks: 5\niso,system_gain,read_var\n100,{cell},2\n200,1,\n")
    with pytest.raises(ProfileError):
        from_csv(tmp_path / "t.csv")
