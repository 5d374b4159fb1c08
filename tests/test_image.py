"""The mosaic, its phases and its levels."""

import numpy as np
import pytest

from rawkit.errors import MetadataError
from rawkit.raw.image import CFA, BlackLevel, LinearImage, Metadata, RawImage, pack, pad_to_period, unpack

XTRANS = CFA.xtrans("GBGGRGRGRBGBGBGGRGGRGGBGBGBRGRGRGGBG")
EVERY = [*(CFA.bayer(p) for p in ("RGGB", "BGGR", "GRBG", "GBRG")), XTRANS, CFA.mono()]


def _image(cfa, shape=(12, 18), **kwargs):
    raster = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    return RawImage(raster=raster, cfa=cfa, black=BlackLevel.constant(10), white_level=1000, **kwargs)


@pytest.mark.parametrize("cfa", EVERY, ids=str)
def test_packing_is_undone_and_each_plane_has_one_phase(cfa):
    mosaic = np.arange(12 * 18).reshape(12, 18)
    planes = pack(mosaic, cfa)
    assert np.array_equal(unpack(planes, cfa), mosaic)
    letters = np.tile(np.array(list(cfa.pattern)).reshape(cfa.shape), (12 // cfa.shape[0], 18 // cfa.shape[1]))
    for plane, phase in zip(pack(letters, cfa), cfa.plane_phases, strict=True):
        assert set(plane.ravel()) == {cfa.phases[phase][0]}


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_bayer_planes_are_r_gr_gb_b_whatever_the_pattern(pattern):
    # Color a mosaic by what its letters say, with the green of the red row told from the other.
    grid = np.array(list(pattern)).reshape(2, 2)
    red_row = int(np.argwhere(grid == "R")[0, 0])
    value = np.zeros((2, 2), int)
    for r in range(2):
        for c in range(2):
            value[r, c] = {"R": 0, "B": 3}.get(grid[r, c], 1 if r == red_row else 2)
    planes = pack(np.tile(value, (3, 4)), CFA.bayer(pattern))
    assert [set(p.ravel()) for p in planes] == [{0}, {1}, {2}, {3}]


@pytest.mark.parametrize("cfa", EVERY, ids=str)
@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (3, 5)])
def test_rolling_is_cropping(cfa, shift):
    letters = np.tile(np.array(list(cfa.pattern)).reshape(cfa.shape), (12, 12))
    cropped = letters[shift[0] :, shift[1] :][: cfa.shape[0], : cfa.shape[1]]
    assert cfa.rolled(*shift).pattern == "".join(cropped.ravel())


@pytest.mark.parametrize("cfa", EVERY, ids=str)
def test_odd_sizes_are_padded_with_the_same_phase_and_cropped_again(cfa):
    image = _image(cfa, (13, 17))
    planes = image.planes()
    assert np.array_equal(image.from_planes(planes), image.signal())
    letters = np.tile(np.array(list(cfa.pattern)).reshape(cfa.shape), (18, 18))
    padded = pad_to_period(letters[:13, :17], cfa)
    assert np.array_equal(padded, letters[: padded.shape[0], : padded.shape[1]])


def test_unknown_patterns_are_refused():
    for text in ("RGBG", "RGGX", "R", "RGGBR"):
        with pytest.raises(ValueError, match="CFA"):
            CFA.parse(text)
    assert CFA.parse(" mono ") == CFA.mono()
    with pytest.raises(ValueError, match="pad it first"):
        pack(np.zeros((3, 4)), CFA.bayer("RGGB"))


def test_black_level_is_removed_and_added_back():
    rng = np.random.default_rng(3)
    black = BlackLevel(np.array([[1.0, 2, 3], [4, 5, 6]]), delta_h=np.arange(7) * 0.5, delta_v=np.arange(5) * 2.0)
    stored = rng.integers(0, 100, (5, 7)).astype(np.uint16)
    wanted = np.empty((5, 7))
    for i in range(5):
        for j in range(7):
            wanted[i, j] = int(stored[i, j]) - [[1, 2, 3], [4, 5, 6]][i % 2][j % 3] - 0.5 * j - 2 * i
    signal = black.remove(stored)
    assert signal.dtype == np.float32
    assert (signal < 0).any()  # noise below black is signal, too
    np.testing.assert_allclose(signal, wanted, rtol=1e-6)
    np.testing.assert_allclose(black.add(signal), stored, rtol=1e-6)


@pytest.mark.parametrize("cfa", EVERY, ids=str)
def test_phase_means_are_the_mean_black_of_the_pixels_of_a_phase(cfa):
    pattern = np.arange(12.0).reshape(3, 4)  # a period that does not divide the CFA's
    # Columns and rows of even and odd number are read out by circuits of their own, so phases differ.
    delta_h, delta_v = np.arange(24) % 2 * 5.0 + np.linspace(-1, 1, 24), np.arange(36) % 3 * 7.0
    black = BlackLevel(pattern, delta_h=delta_h, delta_v=delta_v)
    every = np.tile(pattern, (12, 6)) + delta_h + delta_v[:, None]
    phase = np.tile(cfa.phase_map, (36 // cfa.shape[0], 24 // cfa.shape[1]))
    wanted = [every[phase == p].mean() for p in range(len(cfa.phases))]
    np.testing.assert_allclose(black.phase_means(cfa), wanted, rtol=1e-12)


def test_black_of_a_linear_image_has_the_deltas_too():
    black = BlackLevel(np.array([[[1.0, 2.0, 3.0]]]), np.linspace(0, 1, 5), np.linspace(2, 4, 7))
    image = LinearImage(pixels=np.zeros((7, 5, 3), np.uint16), black=black, white_level=100.0)
    np.testing.assert_allclose(image.black_level, -image.signal().mean(axis=(0, 1)), rtol=1e-6)


def test_black_per_phase_follows_the_pattern():
    cfa = CFA.bayer("GBRG")
    black = BlackLevel.per_phase((1, 2, 3, 4), cfa)
    assert black.pattern.tolist() == [[3, 4], [1, 2]]
    assert black.phase_means(cfa) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="3 black levels"):
        BlackLevel.per_phase((1, 2, 3), cfa)


def test_a_new_signal_leaves_the_borders_alone():
    image = _image(CFA.bayer("RGGB"), active_area=(2, 4, 12, 16))
    doubled = image.with_signal(image.signal() * 2)
    np.testing.assert_allclose(doubled.signal(), image.signal() * 2, rtol=1e-6)
    assert np.array_equal(doubled.raster[:2], image.raster[:2])
    assert np.array_equal(doubled.raster[:, 16:], image.raster[:, 16:])
    assert np.array_equal(image.raster, np.arange(216).reshape(12, 18))  # the source is untouched
    with pytest.raises(ValueError, match="does not fit"):
        image.with_signal(np.zeros((3, 3)))


def test_linear_images():
    pixels = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3)
    black = BlackLevel(np.array([[[1.0, 2.0, 3.0]]]))
    image = LinearImage(pixels=pixels, black=black, white_level=100)
    assert image.black_level == (1, 2, 3)
    assert np.array_equal(image.signal(), pixels - np.array([1.0, 2, 3]))
    assert np.array_equal(image.from_planes(image.planes()), image.signal())
    assert np.array_equal(image.with_signal(image.signal()).pixels, pixels)
    assert image.phases == ("R", "G", "B")


def test_iso_is_asked_for_when_it_is_needed():
    with pytest.raises(MetadataError, match="--iso"):
        _ = _image(CFA.mono()).iso
    assert _image(CFA.mono(), metadata=Metadata(iso=100)).iso == 100


def test_camera_names_do_not_repeat_the_make():
    assert Metadata(make="NIKON CORPORATION", model="NIKON D5000").camera() == "NIKON D5000"
    assert Metadata(make="SONY", model="ILCE-7RM4").camera() == "SONY ILCE-7RM4"
    assert Metadata(unique_camera_model="M1").camera() == "M1"
    assert Metadata().camera() == "unknown camera"
