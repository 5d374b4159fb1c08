"""Pages are self-contained, and the demonstration measures what it simulated."""

import re

import numpy as np
import pytest

from rawkit import demo
from rawkit.report import html


def test_a_page_makes_no_request():
    picture = np.zeros((4, 6, 3), np.uint8)
    text = html.page(
        "a <b> page", [html.heading("x & y"), html.comparison(picture, picture, "pair"), html.table("ab", ["cd"])]
    )
    assert "default-src 'none'" in text
    assert "a &lt;b&gt; page" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(s.startswith(("data:", "#")) for s in sources)


def test_ids_of_two_figures_do_not_collide():
    from matplotlib.figure import Figure

    figures = []
    for slope in (1, 2):
        figure = Figure()
        figure.subplots().plot([0, 1], [0, slope])
        figures.append(html.figure_block(figure, "a line"))
    first, second = (set(re.findall(r'id="([^"]+)"', f)) for f in figures)
    assert first
    assert not first & second
    for block, ids in zip(figures, (first, second), strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", block)) <= ids


@pytest.mark.slow
def test_demo_measures_what_it_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ISOS", (3200.0,))
    monkeypatch.setattr(demo, "PICTURES", ("coffee",))
    steps = []
    summary = demo.demo_on_simulation(tmp_path, progress=lambda done, total: steps.append(done / total))
    for row in summary["calibration"]:
        assert abs(row["gain"] - row["gain_true"]) < 4 * row["gain_se"]
        assert abs(row["read"] - row["read_true"]) < 4 * row["read_se"]
        assert row["gain_se"] < 0.01 * row["gain_true"]
    (picture,) = summary["pictures"]
    assert picture["psnr_after"] > picture["psnr_before"] + 2
    assert steps == sorted(steps)
    assert steps[-1] == 1
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "http://" not in re.sub(
        r'xmlns[:\w]*="[^"]+"|<!DOCTYPE[^>]+>|<metadata>.*?</metadata>', "", page, flags=re.S
    )


@pytest.fixture(scope="module")
def two_isos(tmp_path_factory):
    """A color camera at ISO 100 and 400, every fifth of whose pixels is offset, and one broken file."""
    from test_calibrate import shoot_set

    from rawkit.sensor.calibrate import calibrate
    from rawkit.sensor.frames import FrameSet

    folder = tmp_path_factory.mktemp("frames")
    for number, iso in enumerate((100, 400)):
        shoot_set(folder, gain=iso / 200, read_noise=4.0, seed=1, iso=iso, shape=(128, 160), dsnu=1.0 + number,
                  levels=(20, 80, 300, 1000, 2000, 3500))  # fmt: skip
    (folder / "flat_100_008.npy").write_bytes(b"not an array")
    return calibrate(FrameSet.open(folder))


def test_calibration_page_shows_verdict_curves_and_left_out_files(two_isos):
    from rawkit.report.calibration import calibration_page

    page = calibration_page(two_isos)
    assert page.count("<svg") >= 2 * 11
    assert "Verdict" in page
    assert "flat_100_008.npy" in page
    for name in ("photon transfer", "signal-to-noise", "row noise", "prnu", "linearity", "quantiles", "defective",
                 "dark shading", "nonlinearity", "sha-256"):  # fmt: skip
        assert name in page.lower(), name
    assert "default-src 'none'" in page
    outside = re.sub(r'xmlns[:\w]*="[^"]+"|<!DOCTYPE[^>]+>|<metadata>.*?</metadata>', "", page, flags=re.S)
    assert "http" not in outside.replace("http-equiv", "")


def test_figures_take_a_calibration(two_isos):
    from matplotlib.figure import Figure

    from rawkit.report import figures

    of_iso = (
        figures.photon_transfer, figures.linearity, figures.signal_to_noise, figures.dark_histogram,
        figures.dark_quantiles, figures.row_noise, figures.temporal_spectrum, figures.fixed_spectra,
        figures.shading_maps, figures.pixel_maps, figures.defect_map,
    )  # fmt: skip
    of_camera = figures.noise_over_iso, figures.shading_over_iso, figures.converter_figure
    for figure in [*(draw(two_isos, 100) for draw in of_iso), *(draw(two_isos) for draw in of_camera)]:
        assert isinstance(figure, Figure)
        # A column of the report: letters of 9 points stay readable on a telephone.
        assert figure.get_size_inches()[0] <= 4.8
    with pytest.raises(KeyError, match="no spatial findings at ISO 200"):
        figures.defect_map(two_isos, 200)


def test_the_confidence_band_is_that_of_the_fit(two_isos):
    """At the brightest level the band is two standard errors of K wide on either side."""
    from rawkit.report import figures

    curve, dark = two_isos.curves[400], two_isos.darks[400]
    top = figures.photon_transfer(two_isos, 400).axes[0]
    band = top.collections[0].get_paths()[0].vertices
    bright = band[band[:, 0] == band[:, 0].max()]
    signal = bright[0, 0]
    model = curve.system_gain[0] * signal + dark.read_var[0]
    expected = 2 * np.hypot(signal * curve.system_gain_se[0], dark.read_var_se[0])
    assert bright[:, 1].max() - model == pytest.approx(expected, rel=1e-6)
