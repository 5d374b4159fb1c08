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


def test_calibration_page_shows_verdict_curves_and_left_out_files(tmp_path):
    from test_calibrate import shoot_set

    from rawkit.report.calibration import calibration_page
    from rawkit.sensor.calibrate import calibrate
    from rawkit.sensor.frames import FrameSet

    shoot_set(tmp_path, gain=2.0, read_noise=4.0, seed=1)
    (tmp_path / "flat_100_008.npy").write_bytes(b"not an array")
    page = calibration_page(calibrate(FrameSet.open(tmp_path)))
    assert page.count("<svg") >= 3
    assert "Verdict" in page
    assert "flat_100_008.npy" in page
    for name in ("photon transfer", "signal-to-noise", "row noise", "prnu"):
        assert name in page.lower()
    assert "default-src 'none'" in page
