"""Denoiser: levels kept, strength, CFA arrangements, highlights, messages."""

from functools import partial

import numpy as np
import pytest

from rawkit.errors import ProfileError, UnsupportedRawError, WeightsError
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage
from rawkit.restore.denoise import Denoiser, default_denoiser
from rawkit.restore.files import DenoiseSettings
from rawkit.restore.phases import canonical_planes, from_canonical_planes
from rawkit.sensor.params import NoiseParams

BLACK, WHITE = 512.0, 16383.0


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser.load("classical")


def add_noise(clean, gain, read_var, seed=0):
    """Poisson-Gaussian noise by NumPy alone."""
    rng = np.random.default_rng(seed)
    shot = gain * rng.poisson(np.maximum(clean, 0) / gain)
    return (shot + rng.normal(0.0, np.sqrt(read_var), clean.shape)).astype(np.float32)


def scene(height, width):
    """(H, W) mosaic-sized gray scene [DN] with shading, edges and texture, colored by the CFA afterwards."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return 1500 + 1000 * np.sin(x / 60) * np.cos(y / 45) + 800 * ((x // 37 + y // 53) % 2) + 150 * np.sin(x / 3.1)


def raw(signal, pattern="RGGB", **kwargs):
    defaults = {"black": BlackLevel.constant(BLACK), "white_level": WHITE, "metadata": Metadata(iso=800.0)}
    return RawImage(raster=(signal + BLACK).astype(np.float32), cfa=CFA.bayer(pattern), **(defaults | kwargs))


def colored(signal, pattern, colors=(0.5, 1.0, 0.7)):
    cfa = CFA.bayer(pattern)
    gains = np.array([colors[0], colors[1], colors[1], colors[2]])[cfa.phase_map]
    tiles = (signal.shape[0] // 2 + 1, signal.shape[1] // 2 + 1)
    return (signal * np.tile(gains, tiles)[: signal.shape[0], : signal.shape[1]]).astype(np.float32)


@pytest.mark.parametrize("electrons", [0.0, 0.5, 2.0, 10.0, 1000.0])
@pytest.mark.parametrize(("gain", "read_var"), [(2.0, 9.0), (1.0, 0.5)])
def test_flat_fields_keep_their_mean(denoiser, electrons, gain, read_var):
    clean = np.full((4, 96, 96), gain * electrons)
    noisy = add_noise(clean, gain, read_var, seed=int(electrons))
    out = denoiser.denoise_planes(noisy, NoiseParams(gain, read_var))
    error = np.sqrt((gain**2 * electrons + read_var) / noisy.size)
    assert abs(out.mean(dtype=np.float64) - gain * electrons) < 5 * error
    assert out.std() < 0.2 * noisy.std()


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.5])
def test_the_mean_is_kept_at_every_strength(denoiser, strength):
    noisy = add_noise(np.full((4, 96, 96), 40.0), 4.0, 25.0)
    out = denoiser.denoise_planes(noisy, NoiseParams(4.0, 25.0), strength=strength)
    # Without the blend of inverses the error would be K/4 = 1 DN at low strength; sampling allows 0.35 DN.
    assert abs(out.mean(dtype=np.float64) - 40.0) < 5 * np.sqrt((4 * 40 + 25) / noisy.size)


def test_a_black_frame_keeps_its_mean_and_its_negative_values(denoiser):
    noisy = np.random.default_rng(1).normal(-3.0, 4.0, (96, 96)).astype(np.float32)  # black level 3 DN too high
    image = raw(noisy)
    out = denoiser(image, NoiseParams(1.0, 16.0)).signal()
    # Values below zero light leave the model: the inverse goes on linearly, which holds the level to a few percent.
    assert out.mean(dtype=np.float64) == pytest.approx(noisy.mean(dtype=np.float64), abs=0.3)
    assert (out < 0).mean() > 0.95


def test_strength_zero_returns_the_input(denoiser):
    image = raw(colored(scene(40, 60), "RGGB"))
    out = denoiser(image, NoiseParams(1.0, 9.0), strength=0)
    assert np.array_equal(out.raster, image.raster)
    planes = image.planes()
    assert np.array_equal(denoiser.denoise_planes(planes, NoiseParams(1.0, 9.0), strength=0), planes)
    assert denoiser.remaining_variance(0) == 1.0


def test_noise_removal_grows_with_strength(denoiser):
    noisy = add_noise(np.full((4, 80, 80), 300.0), 2.0, 10.0)
    params = NoiseParams(2.0, 10.0)
    left = [denoiser.denoise_planes(noisy, params, strength=s).var() for s in (0, 0.05, 0.25, 0.5, 0.7, 0.85, 1.0, 1.5)]
    assert (np.diff(left) < 0).all()
    assert left[1] == pytest.approx(left[0], rel=0.02)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_remaining_variance_foretells_a_flat_field(denoiser, strength):
    noisy = add_noise(np.full((4, 128, 128), 900.0), 2.0, 10.0, seed=4)
    out = denoiser.denoise_planes(noisy, NoiseParams(2.0, 10.0), strength=strength)
    assert out.var() / noisy.var() == pytest.approx(denoiser.remaining_variance(strength), rel=0.1, abs=0.004)


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("shape", [(96, 120), (97, 119)])
def test_any_arrangement_and_any_size_is_denoised(denoiser, pattern, shape):
    clean = colored(scene(*shape), pattern)
    noisy = raw(add_noise(clean, 8.0, 100.0), pattern)
    out = denoiser(noisy, NoiseParams(8.0, 100.0))
    assert out.signal().shape == shape
    assert out.signal().dtype == np.float32
    assert out.cfa == noisy.cfa
    before, after = (float(((image.signal() - clean) ** 2).mean()) for image in (noisy, out))
    assert after < 0.25 * before


def test_one_scene_in_four_arrangements_has_one_answer(denoiser):
    """Crops of one mosaic that start on R, Gr, Gb or B: away from their borders the results agree."""
    noisy = add_noise(colored(scene(142, 162), "RGGB"), 8.0, 100.0)
    params = NoiseParams([8.0, 7.0, 9.0, 8.0], [100.0, 90.0, 80.0, 120.0])
    whole = CFA.bayer("RGGB")
    results = []
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        image = raw(noisy[dy:, dx:], whole.rolled(dy, dx).pattern)
        results.append(denoiser(image, params).signal()[20 - dy : 120 - dy, 20 - dx : 140 - dx])
    noise = np.sqrt(8.0 * 1500 + 100)
    for other in results[1:]:
        # Only the components learned from slightly different crops differ.
        assert np.sqrt(((other - results[0]) ** 2).mean()) < 0.06 * noise


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (2, 3)])
def test_canonical_planes_and_back(pattern, shape):
    cfa = CFA.bayer(pattern)
    mosaic = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    planes = canonical_planes(mosaic, cfa)
    assert np.array_equal(from_canonical_planes(planes, cfa, shape), mosaic)
    phase = np.tile(cfa.phase_map, (shape[0], shape[1]))[: shape[0], : shape[1]]
    for index, plane in enumerate(planes):
        assert set(plane.ravel()) <= set(mosaic[phase == index].ravel())


def test_clipped_highlights_stay(denoiser):
    clean = np.full((80, 80), 2000.0, np.float32)
    clean[20:50, 30:60] = 1.2 * (WHITE - BLACK)
    noisy = np.minimum(add_noise(clean, 20.0, 100.0), WHITE - BLACK)
    noisy[70, 10] = WHITE - BLACK  # a lone highlight
    image = raw(noisy)
    out = denoiser(image, NoiseParams(20.0, 100.0)).mosaic
    assert out[70, 10] == image.mosaic[70, 10]
    blown = image.mosaic[23:47, 33:57] == WHITE
    assert blown.all()
    assert (out[23:47, 33:57] == WHITE).all()


def test_bright_areas_that_noise_clips_keep_no_salt(denoiser):
    """Expected value one sigma below white: a sixth of the pixels clip, and none of them may stick out."""
    gain, span = 20.0, WHITE - BLACK
    level = span - np.sqrt(gain * span)
    noisy = np.minimum(add_noise(np.full((96, 96), level), gain, 100.0), span)
    out = denoiser(raw(noisy), NoiseParams(gain, 100.0)).signal()
    assert (noisy >= span).mean() > 0.1
    assert out.std() < 0.15 * np.sqrt(gain * span)


def test_one_set_of_parameters_per_phase(denoiser):
    gains, read_vars = np.array([1.0, 4.0, 4.0, 9.0]), np.array([4.0, 9.0, 16.0, 25.0])
    clean = np.full((4, 96, 96), 200.0)
    noisy = add_noise(clean, gains[:, None, None], read_vars[:, None, None])
    flat = denoiser.denoise_planes(noisy, NoiseParams(gains, read_vars))
    spread = denoiser.denoise_planes(noisy, NoiseParams(gains.reshape(4, 1, 1), read_vars.reshape(4, 1, 1)))
    assert np.array_equal(flat, spread)
    assert (flat.std(axis=(1, 2)) < 0.2 * noisy.std(axis=(1, 2))).all()


def test_other_kinds_of_image(denoiser):
    params, params_rgb = NoiseParams(4.0, 20.0), NoiseParams([4.0, 3.0, 5.0], 20.0)
    mono = RawImage(
        raster=add_noise(np.full((90, 71), 400.0), 4.0, 20.0) + np.float32(BLACK),
        cfa=CFA.mono(), black=BlackLevel.constant(BLACK), white_level=WHITE,
    )  # fmt: skip
    xtrans = CFA.xtrans("GBGGRG RGRBGB GBGGRG GRGGBG BGBRGR GRGGBG".replace(" ", ""))
    fuji = RawImage(
        raster=add_noise(np.full((151, 163), 400.0), 4.0, 20.0) + np.float32(BLACK),
        cfa=xtrans, black=BlackLevel.constant(BLACK), white_level=WHITE,
    )  # fmt: skip
    linear = LinearImage(
        pixels=add_noise(np.full((80, 90, 3), 400.0), 4.0, 20.0) + np.float32(BLACK),
        black=BlackLevel(np.full((1, 1, 3), BLACK)), white_level=WHITE,
    )  # fmt: skip
    for image, its in ((mono, params), (fuji, params), (linear, params_rgb)):
        out = denoiser(image, its)
        assert type(out) is type(image)
        before, after = image.signal(), out.signal()
        assert after.shape == before.shape
        assert after.std() < 0.25 * before.std()
        assert after.mean(dtype=np.float64) == pytest.approx(before.mean(dtype=np.float64), abs=1.0)


def test_active_area_alone_is_changed(denoiser):
    noisy = add_noise(np.full((70, 90), 500.0), 4.0, 20.0) + np.float32(BLACK)
    image = RawImage(
        raster=np.rint(noisy).astype(np.uint16), cfa=CFA.bayer("GRBG"), active_area=(3, 5, 66, 84),
        black=BlackLevel.constant(BLACK), white_level=WHITE,
    )  # fmt: skip
    out = denoiser(image, NoiseParams(4.0, 20.0))
    assert out.raster.shape == image.raster.shape
    border = np.ones(image.raster.shape, bool)
    border[3:66, 5:84] = False
    assert np.array_equal(out.raster[border], image.raster[border].astype(np.float32))
    assert out.mosaic.std() < 0.3 * image.mosaic.std()


def test_workers_do_not_change_a_bit(denoiser, monkeypatch):
    from rawkit.restore import classical

    monkeypatch.setattr(classical, "_TILE_BUDGET", 1.0)
    image = raw(add_noise(colored(scene(380, 200), "GBRG"), 8.0, 100.0), "GBRG")
    seen = []
    run = partial(denoiser, image, NoiseParams(8.0, 100.0))
    assert np.array_equal(run(workers=1).raster, run(workers=3, progress=lambda *p: seen.append(p)).raster)
    assert seen[-1] == (len(seen), len(seen))


def test_misuse_is_explained(denoiser):
    with pytest.raises(WeightsError, match="classical"):
        Denoiser.load("restormer-of-tomorrow")
    with pytest.raises(ValueError, match="CPU only"):
        Denoiser.load("classical", device="cuda")
    assert Denoiser.load("classical", device="auto").device == "cpu"
    planes = np.zeros((4, 8, 8), np.float32)
    for strength in (-1.0, np.nan):
        with pytest.raises(ValueError, match="strength"):
            denoiser.denoise_planes(planes, NoiseParams(1.0, 1.0), strength=strength)
    with pytest.raises(ValueError, match=r"\(P, h, w\)"):
        denoiser.denoise_planes(planes[0], NoiseParams(1.0, 1.0))
    with pytest.raises(UnsupportedRawError, match="not numbers"):
        denoiser.denoise_planes(planes * np.nan, NoiseParams(1.0, 1.0))


@pytest.mark.data
def test_it_beats_plain_nonlocal_means_on_photographs(denoiser, data_dir):
    """GAT + fast NLM per plane on the same noise: at least half a decibel better at ISO 6400."""
    from PIL import Image
    from skimage.restoration import denoise_nl_means

    from rawkit.sensor.transforms import anscombe, inverse_anscombe

    params, span = NoiseParams(3.846, 33.4), 959.0
    gain = []
    for name in ("kodim05", "kodim19"):
        rgb = np.asarray(Image.open(data_dir / "eval" / "Kodak24" / f"{name}.png"))[:256, :256] / 255.0
        light = (rgb**2.2 * [0.5, 1.0, 0.62] * span).astype(np.float32)
        clean = np.stack([light[::2, ::2, 0], light[::2, 1::2, 1], light[1::2, ::2, 1], light[1::2, 1::2, 2]])
        noisy = add_noise(clean, params.system_gain, params.read_var)
        d = anscombe(noisy, params)
        plain = np.stack([denoise_nl_means(p, 5, 9, 0.8, fast_mode=True, sigma=1.0) for p in d]).astype(np.float32)
        errors = [
            ((x - clean) ** 2).mean() for x in (inverse_anscombe(plain, params), denoiser.denoise_planes(noisy, params))
        ]
        gain.append(10 * np.log10(errors[0] / errors[1]))
    assert min(gain) > 0.5


def test_noise_that_no_sensor_has_is_refused(denoiser):
    planes = np.full((4, 32, 32), 500.0, np.float32)
    for params in (NoiseParams(1e-300, 0.0), NoiseParams(1e-3, 1e30)):
        with pytest.raises(ProfileError, match="no sensor"):
            denoiser.denoise_planes(planes, params)


def test_settings_name_the_denoiser_that_auto_stands_for():
    settings = DenoiseSettings(model="auto")
    assert settings.model == default_denoiser() != "auto"
    assert settings.parameters() == DenoiseSettings(model=settings.model).parameters()


def test_a_new_profile_of_ones_own_makes_old_results_others(tmp_path, monkeypatch):
    monkeypatch.setenv("RAWKIT_PROFILES", str(tmp_path))
    settings = DenoiseSettings(model="classical")
    without = settings.parameters()
    (tmp_path / "camera.json").write_text("{}", encoding="utf-8")
    first = settings.parameters()
    (tmp_path / "camera.json").write_text('{"iso": 100}', encoding="utf-8")
    assert len({str(p) for p in (without, first, settings.parameters())}) == 3
    assert without["profile"] is None
