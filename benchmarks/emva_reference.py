"""Does rawkit reproduce the EMVA 1288 reference implementation, and what do its own estimates say?

Every defined scalar of ``reference_outputs.json`` on the frames of set 001: reference, rawkit under
convention="emva1288", their difference; beside them the default estimate with its standard error.

python benchmarks/emva_reference.py [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
from pathlib import Path

from rawkit.sensor.emva import EmvaReport, emva_report
from rawkit.sensor.frames import FrameSet

SET = Path("flatdark") / "EMVA1288_ReferenceSet_001_CCD_12Bit"
DATA = Path(os.environ.get("RAWKIT_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
ALLOWED = 0.005  # relative difference

# Name in the reference's output -> name of the figure here.
NAMES = {
    "K": "system_gain",
    "inverse_K": "inverse_gain",
    "R": "responsivity",
    "QE": "quantum_efficiency",
    "sigma_y_dark": "temporal_dark_noise_dn",
    "sigma_d": "temporal_dark_noise",
    "u_p_min": "sensitivity_threshold_photons",
    "u_e_min": "sensitivity_threshold",
    "u_p_sat": "saturation_photons",
    "u_e_sat": "saturation_capacity",
    "SNR_max": "snr_max",
    "SNR_max_dB": "snr_max_db",
    "SNR_max_bit": "snr_max_bit",
    "inverse_SNR_max": "inverse_snr_max",
    "DR": "dynamic_range",
    "DR_dB": "dynamic_range_db",
    "LE_min": "linearity_error_min",
    "LE_max": "linearity_error_max",
    "_lin_slope": "linear_slope",
    "_lin_offset": "linear_offset",
    "u_I_mean": "dark_current_mean",
    "u_I_mean_DN": "dark_current_mean_dn",
    "u_I_var": "dark_current_var",
    "u_I_var_DN": "dark_current_var_dn",
    "DSNU1288": "dsnu",
    "DSNU1288_DN": "dsnu_dn",
    "DSNU1288_row": "dsnu_row",
    "DSNU1288_col": "dsnu_column",
    "DSNU1288_pixel": "dsnu_pixel",
    "PRNU1288": "prnu",
    "PRNU1288_row": "prnu_row",
    "PRNU1288_col": "prnu_column",
    "PRNU1288_pixel": "prnu_pixel",
} | {
    f"{theirs}{suffix}": f"spatial_var_{ours}_{kind}"
    for theirs, ours in {
        "s_2_y": "total",
        "s_2_y_row": "row",
        "s_2_y_col": "column",
        "s_2_y_pixel": "pixel",
        "s_2_y_rav": "row_average",
        "s_2_y_cav": "column_average",
        "s_2_y_measured": "measured",
        "sigma_2_y_stack": "stack",
    }.items()
    for suffix, kind in (("", "flat"), ("_dark", "dark"))
}


def indices(report: EmvaReport) -> dict[str, float]:
    """The reference's index scalars: first and last level of each range."""
    sensitivity, linearity = report.in_gain_fit.nonzero()[0], report.in_linearity_fit.nonzero()[0]
    return {
        "index_start": 0.0,
        "index_u_ysat": float(report.saturation_index),
        "index_sensitivity_min": float(sensitivity[0]),
        "index_sensitivity_max": float(sensitivity[-1]),
        "index_linearity_min": float(linearity[0]),
        "index_linearity_max": float(linearity[-1]),
    }


def compare(reference: dict, report: EmvaReport) -> list[tuple[str, float, float, float]]:
    """(name, reference, ours, relative difference) of every scalar; NaN agrees with NaN."""
    ours = indices(report) | {theirs: report[name] for theirs, name in NAMES.items()}
    rows = []
    for name, value in sorted(reference.items()):
        if not isinstance(value, (int, float)):
            continue  # "None": not defined for this set
        found = ours[name]
        same = (math.isnan(value) and math.isnan(found)) or found == value
        rows.append((name, value, found, 0.0 if same else abs(found / value - 1.0) if value else math.inf))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DATA / SET)
    folder = parser.parse_args().folder
    reference = json.loads((folder / "reference_outputs.json").read_text())["results"]
    frames = FrameSet.open(folder)
    standard, default = emva_report(frames, convention="emva1288"), emva_report(frames)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"{platform.processor() or platform.machine()}, commit {commit.stdout.strip()}, {len(frames.frames)} frames")
    print(f"{'scalar':24s} {'reference':>14s} {'emva1288':>14s} {'differs':>9s}   default +- standard error, unit")
    rows = compare(reference, standard)
    for name, value, found, difference in rows:
        figure = default.figures.get(NAMES.get(name, ""))
        beside = "" if figure is None else f"{figure.value:.6g} +- {figure.se:.2g} {figure.unit}"
        print(f"{name:24s} {value:14.7g} {found:14.7g} {difference:9.2g}   {beside}")
    worst = max(rows, key=lambda row: row[3])
    print(f"{len(rows)} scalars, largest difference {worst[3]:.2g} ({worst[0]}), allowed {ALLOWED:g}")
    for remark in default.remarks:
        print("remark:", remark)


if __name__ == "__main__":
    main()
