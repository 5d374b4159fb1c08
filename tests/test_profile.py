"""Profiles: interpolation, saving and loading, finding the right one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import expose

from rawkit.errors import CalibrationWarning, OutputExistsError, ProfileError
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.resources import bundled_profiles
from rawkit.sensor.database import find_noise, noise_for
from rawkit.sensor.iso_details import IsoDetails
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.profile import CameraProfile, NoiseModel


def quadrature(iso):
    return NoiseParams(0.01 + 0.002 * iso, 0.5 + 3e-5 * iso**2, 1e-4, 1e-3)


def test_linear_gain_and_quadrature_noise_are_interpolated_exactly():
    model = NoiseModel([(iso, quadrature(iso)) for iso in (100, 400, 1600)])
    for iso in (150, 399, 1000):
        p, true = model.at(iso), quadrature(iso)
        assert float(p.system_gain) == pytest.approx(true.system_gain, rel=1e-12)
        assert float(p.read_var) == pytest.approx(true.read_var, rel=1e-12)
        assert p.origin == "interpolated"
    assert model.at(400).origin == "measured"
    far = model.at(3200)
    assert far.origin == "extrapolated"
    assert float(far.read_var) == pytest.approx(quadrature(3200).read_var, rel=1e-6)


def test_nothing_is_interpolated_across_a_gain_switch():
    noisy, quiet = NoiseParams(1.5, 40.0), NoiseParams(2.0, 7.0)
    model = NoiseModel(
        [(800, NoiseParams(0.75, 13.0)), (1600, noisy), (2000, quiet), (4000, NoiseParams(4.0, 25.0))], (2000,)
    )
    assert model.at(1800).origin == "extrapolated"
    assert float(model.at(1800).read_var) > 40.0
    assert float(model.at(2000).read_var) == 7.0
    with_gap = NoiseModel([(800, noisy), (4000, quiet)], (2000, 3000))
    with pytest.raises(ProfileError, match="without any calibrated ISO"):
        with_gap.at(2500)


def test_saved_profile_loads_the_same(tmp_path):
    noise = NoiseModel([(100, NoiseParams(np.array([1.0, 2, 3, 4]), np.arange(4.0), np.full(4, 0.1), np.full(4, 0.2)))])
    profile = CameraProfile("ACME", "One", noise, ("R", "Gr", "Gb", "B"), "GBRG", 14, (512.0,) * 4, 16383.0)
    profile.save(tmp_path / "p.json")
    again = CameraProfile.load(tmp_path / "p.json")
    assert again.to_dict() == profile.to_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


def entry(details):
    return {"iso": 100, "system_gain": [1.0], "read_var": [1.0], "details": details}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": []}, "not a camera profile"),
        ({"schema": "rawkit-camera-profile/9"}, "this rawkit reads"),
        ({"cfa": "RGBX"}, "not a camera profile"),
        ({"noise": [{"iso": 100, "system_gain": [1.0, 2.0], "read_var": [1.0]}]}, "lists 2 system_gain"),
        ({"noise": [{"iso": 100, "system_gain": [1e9], "read_var": [1.0]}]}, "electrons per DN"),
        ({"noise": [{"iso": 100, "system_gain": [1], "read_var": [1]}] * 2}, "must be positive and rise"),
        ({"noise": [{"iso": 100, "system_gain": [1], "read_var": [1e-4]}]}, r"0\.01 e-, outside 0\.1 to 500"),
        ({"noise": [{"iso": 100, "system_gain": [0.01], "read_var": [100]}]}, r"1e\+03 e-, outside 0\.1 to 500"),
        (
            {"noise": [{"iso": i, "system_gain": [100 / i], "read_var": [1]} for i in (100, 200)]},
            "falls by 50 % from ISO 100 to 200",
        ),
        ({"pushed": [320]}, "pushed ISO 320 is not in the table"),
        ({"black_level": [600.0], "white_level": 512.0}, "not below the white level"),
        ({"noise": [entry({"prnu": 1.2})]}, "is it percent"),
        ({"noise": [entry({"full_well": 4.0})]}, "is it DN instead of electrons"),
        ({"noise": [entry({"row_noise": [1.0, 2.0]})]}, "lists 2 row_noise"),
        ({"noise": [entry({"colour": 1.0})]}, "not a camera profile"),
        ({"maps": {"file": "../x.npz", "sha256": "0" * 64, "names": []}}, "not a camera profile"),
    ],
)
def test_broken_profiles_are_refused_in_one_line(tmp_path, change, message):
    document = CameraProfile("A", "B", NoiseModel([(100, NoiseParams(1.0, 1.0))])).to_dict() | change
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ProfileError, match=message) as caught:
        CameraProfile.load(path)
    assert "\n" not in str(caught.value)
    path.write_text("no json")
    with pytest.raises(ProfileError, match="not JSON"):
        CameraProfile.load(path)


DETAILED = CameraProfile(
    "ACME", "One",
    NoiseModel(
        [(100, NoiseParams(np.full(4, 1.0), np.full(4, 9.0), np.full(4, 0.01), np.full(4, 0.09))),
         (200, NoiseParams(np.full(4, 2.0), np.full(4, 25.0), np.full(4, 0.02), np.full(4, 0.25)))],
        pushed=(200,),
    ),
    ("R", "Gr", "Gb", "B"), "RGGB", 14, (512.0,) * 4, 16383.0,
    details={100.0: IsoDetails(row_noise=0.5, row_noise_se=0.01, tukey_lambda=(-0.1, 0.0, 0.1, 0.14), full_well=15000.0,
                               dark_frames=16, remarks=("retake the flats",))},
)  # fmt: skip


def test_details_are_saved_and_absent_ones_stay_absent(tmp_path):
    DETAILED.save(tmp_path / "p.json")
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["pushed"] == [200.0]
    assert "details" not in document["noise"][1]
    assert set(document["noise"][0]["details"]) == {
        "row_noise", "row_noise_se", "tukey_lambda", "full_well", "dark_frames", "remarks"
    }  # fmt: skip
    again = CameraProfile.load(tmp_path / "p.json")
    assert again.details == DETAILED.details
    assert again.noise.pushed == (200.0,)
    assert again.maps == {}
    with pytest.raises(ProfileError, match="details of ISO 400"):
        replace(DETAILED, details={400.0: IsoDetails()})


def test_maps_travel_beside_the_profile_and_are_verified(tmp_path):
    maps = {"dark_shading": np.arange(6.0).reshape(2, 3), "defects": np.array([[1, 2]], np.int32)}
    replace(DETAILED, maps=maps).save(tmp_path / "p.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", "p.npz"]
    again = CameraProfile.load(tmp_path / "p.json")
    assert set(again.maps) == set(maps)
    for name, array in maps.items():
        assert again.maps[name].dtype == array.dtype
        assert np.array_equal(again.maps[name], array)
    # Moved profiles take their maps along when saved again.
    again.save(tmp_path / "elsewhere" / "q.json")
    assert np.array_equal(
        CameraProfile.load(tmp_path / "elsewhere" / "q.json").maps["dark_shading"], np.arange(6.0).reshape(2, 3)
    )
    with pytest.raises(OutputExistsError):
        again.save(tmp_path / "p.json")

    (tmp_path / "p.npz").write_bytes(b"something else")
    tampered = CameraProfile.load(tmp_path / "p.json")  # parameters are there all the same
    with pytest.raises(ProfileError, match="not the file that the profile was saved with"):
        tampered.maps["defects"]
    (tmp_path / "p.npz").unlink()
    with pytest.raises(ProfileError, match="is missing"):
        CameraProfile.load(tmp_path / "p.json").maps["defects"]
    with pytest.raises(ProfileError, match="Python objects"):
        replace(DETAILED, maps={"x": np.array([None])}).save(tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_a_profile_that_cannot_write_its_maps_writes_nothing(tmp_path):
    (tmp_path / "p.npz").write_bytes(b"in the way")
    with pytest.raises(OutputExistsError):
        replace(DETAILED, maps={"x": np.zeros(3)}).save(tmp_path / "p.json")
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]
    assert (tmp_path / "p.npz").read_bytes() == b"in the way"


def test_a_slight_fall_of_gain_is_pointed_out_unless_explained():
    def camera(**structure):
        table = [(100, NoiseParams(1.0, 9.0, 0.01, 0.1)), (125, NoiseParams(0.8, 9.0, 0.008, 0.1))]
        return CameraProfile("A", "B", NoiseModel(table, **structure)).to_dict()

    with pytest.warns(CalibrationWarning, match="falls by 20 % from ISO 100 to 125"):
        CameraProfile.from_dict(camera())
    CameraProfile.from_dict(camera(pushed=(125,)))
    CameraProfile.from_dict(camera(gain_switches=(125,)))


def test_frame_has_one_row_per_iso_and_phase_with_units():
    frame = DETAILED.to_frame()
    assert len(frame) == 8
    row = frame[(frame.iso == 100) & (frame.phase == "B")].iloc[0]
    assert row.system_gain == 1.0
    assert row.read_noise == pytest.approx(3.0)
    assert row.read_noise_se == pytest.approx(0.09 / 6)
    assert row.read_noise_e == pytest.approx(3.0)
    assert row.read_noise_e_se == pytest.approx(3.0 * np.hypot(0.015 / 3, 0.01))
    assert row.tukey_lambda == 0.14
    assert frame[frame.iso == 200].pushed.all()
    assert frame.attrs["units"]["system_gain_se"] == "DN/e-"
    assert frame.attrs["units"]["full_well"] == "e-"
    assert np.isnan(frame[frame.iso == 200].row_noise).all()


def test_the_picture_itself_is_the_last_source(tmp_path):
    rng = np.random.default_rng(5)
    light = np.repeat(np.linspace(0.0, 2000.0, 512)[None], 512, axis=0)
    stored = expose(light, system_gain=2.0, read_noise=5.0, rng=rng)
    image = RawImage(
        raster=stored, cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(512), white_level=16383.0,
        metadata=Metadata(make="ACME", model="Ten", iso=800),
    )  # fmt: skip
    database = tmp_path / "none.json"
    database.write_text('{"version": 0, "noiseprofiles": []}')
    found = find_noise(image, library=tmp_path / "library", darktable=database)
    assert found.kind == "estimated"
    assert found.params.origin == "estimated"
    assert "95 % intervals" in found.description
    assert np.asarray(found.params.system_gain)[0] == pytest.approx(2.0, rel=0.05)
    # Who names another camera does not want this picture's.
    with pytest.raises(ProfileError, match="no noise profile for ACME Eleven"):
        find_noise(image, library=tmp_path / "library", darktable=database, camera="ACME Eleven")


def test_bundled_profiles_load_and_have_a_source():
    paths = bundled_profiles()
    assert len(paths) == 7
    for path in paths:
        profile = CameraProfile.load(path)
        assert profile.provenance["license"]
        assert profile.provenance["source"]
    a7s2 = CameraProfile.load(next(p for p in paths if "pmn" in p.name))
    assert len(a7s2.noise.isos) == 28
    # The dual conversion gain switch: read noise falls by more than half from ISO 1600 to 2000.
    assert float(a7s2.noise.at(2000).read_var) < 0.25 * float(a7s2.noise.at(1600).read_var)
    assert float(a7s2.noise.at(1800).read_var) > float(a7s2.noise.at(1600).read_var)


def picture(make="SONY", model="ILCE-7SM2", white=16383.0, black=512.0, iso=800.0, **metadata):
    return RawImage(
        raster=np.zeros((4, 4), np.uint16), cfa=CFA.bayer("RGGB"), black=BlackLevel.constant(black),
        white_level=white, metadata=Metadata(make=make, model=model, iso=iso, **metadata),
    )  # fmt: skip


def linear_picture(make, model):
    metadata = Metadata(make=make, model=model, iso=800.0)
    return LinearImage(
        pixels=np.zeros((4, 4, 3), np.uint16), black=BlackLevel.constant(512), white_level=16383.0, metadata=metadata
    )


def test_sources_are_asked_in_order(tmp_path):
    tagged = {"noise_profile": ((2e-5, 1e-7),)}
    database = tmp_path / "noiseprofiles.json"
    entry = {"name": "x", "iso": 800, "a": [1e-5, 2e-5, 3e-5], "b": [1e-8, -1e-8, 1e-8]}
    database.write_text(json.dumps({"version": 0, "noiseprofiles": [
        {"maker": "Sony", "models": [{"model": "ILCE-7SM2", "profiles": [entry]}]},
        {"maker": "ACME", "models": [{"model": "Nine", "profiles": [entry]}]},
    ]}))  # fmt: skip
    library = tmp_path / "library"
    library.mkdir()
    own = CameraProfile("SONY", "ILCE-7SM2", NoiseModel([(800, NoiseParams(0.7, 9.0))]), bit_depth=14)
    options = {"library": library, "darktable": database}

    assert find_noise(picture(**tagged), **options).kind == "bundled"
    own.save(library / "own.json")
    assert find_noise(picture(**tagged), **options).kind == "library"
    assert find_noise(picture(**tagged), profile=own, **options).kind == "given"
    unknown = {"make": "ACME", "model": "Nine"}
    assert find_noise(picture(**unknown, **tagged), **options).kind == "file tag"
    found = find_noise(picture(**unknown), **options)
    assert found.kind == "darktable"
    span = 16383 - 512
    # Demosaiced pixels have a tenth of a raw pixel's variance: green, scaled to the mosaic, serves all phases.
    assert float(found.params.system_gain) == pytest.approx(2e-5 * span * 9.8)
    assert float(found.params.read_var) == 0
    linear = find_noise(linear_picture(**unknown), **options)
    assert linear.kind == "darktable"
    assert np.allclose(linear.params.system_gain, np.array([1e-5, 2e-5, 3e-5]) * span)
    assert np.allclose(linear.params.read_var, np.array([1e-8, 0, 1e-8]) * span**2)
    with pytest.raises(ProfileError, match="no noise profile for ACME Ten"):
        find_noise(picture(make="ACME", model="Ten"), **options)
    assert find_noise(picture(make="ACME", model="Ten"), camera="ACME Nine", **options).kind == "darktable"


def test_a_demosaiced_image_does_not_take_a_mosaics_profile(tmp_path):
    image = LinearImage(
        pixels=np.zeros((4, 4, 3), np.uint16), black=BlackLevel.constant(0), white_level=65535.0,
        metadata=Metadata(make="SONY", model="ILCE-7SM2", iso=800, noise_profile=((2e-5, 1e-7),)),
    )  # fmt: skip
    assert find_noise(image, library=tmp_path).kind == "file tag"


def test_parameters_follow_the_bit_depth_of_the_file():
    profile = CameraProfile(
        "A", "B", NoiseModel([(800, NoiseParams(2.0, 16.0))]), black_level=(512.0,), white_level=16383.0
    )
    same = noise_for(profile, picture(white=15520.0, black=400.0))
    assert float(same.system_gain) == 2.0
    two_bits_less = noise_for(profile, picture(white=4095.0, black=128.0))
    assert float(two_bits_less.system_gain) == 0.5
    assert float(two_bits_less.read_var) == 1.0
    with pytest.raises(ProfileError, match="power of two"):
        noise_for(profile, picture(white=11000.0, black=0.0))


def test_dng_noise_profile_round_trip():
    params = NoiseParams(np.array([1.0, 2.0, 2.0, 3.0]), np.array([4.0, 5.0, 5.0, 6.0]))
    phases = ("R", "Gr", "Gb", "B")
    pairs = params.to_dng(15871.0, phases)
    assert len(pairs) == 3
    again = NoiseParams.from_dng(pairs, 15871.0, phases)
    assert np.allclose(again.system_gain, params.system_gain, rtol=1e-12)
    assert np.allclose(again.read_var, params.read_var, rtol=1e-12)


@pytest.mark.data
def test_every_entry_of_darktables_database_can_be_read(data_dir):
    from rawkit.sensor.database import darktable_model
    from rawkit.sensor.exchange import darktable_cameras, darktable_table

    path = data_dir / "profiles" / "darktable_noiseprofiles.json"
    makers = json.loads(Path(path).read_text())["noiseprofiles"]
    models = [(maker["maker"], model["model"]) for maker in makers for model in maker["models"]]
    found = [darktable_model(path, Metadata(make=make, model=model)) for make, model in models[::8]]
    assert [m for m, f in zip(models[::8], found, strict=True) if f is None] == []
    assert all(darktable_table(entries) for _, entries in darktable_cameras(path))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"make": 1e999}', '{"make": NaN}', '{"make": ' + "9" * 5000 + "}"])
def test_json_that_no_program_of_ours_writes_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ProfileError, match="not a camera profile") as caught:
        CameraProfile.load(tmp_path / "p.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("read_var_se", [1e-320]), ("system_gain_se", [0.0]), ("iso", 1e300)])
def test_numbers_that_no_fit_can_use_are_refused(tmp_path, key, value):
    document = CameraProfile("A", "B", NoiseModel([(100.0, NoiseParams(1.0, 9.0))]), white_level=4095.0).to_dict()
    document["noise"][0][key] = value
    with pytest.raises(ProfileError, match=r"standard error|outside"):
        CameraProfile.from_dict(document)
