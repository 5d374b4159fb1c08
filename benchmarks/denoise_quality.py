"""How good is denoising on clean pictures with synthetic noise, beside its peers, and what does it cost?

    python benchmarks/denoise_quality.py [folder of PNG or JPEG] [--count N] [--iso 1600 6400 12800]
        [--model NAME_OR_FILE ...] [--pmrid FOLDER] [--bm3d-python PYTHON] [--only METHOD ...]

The task and the columns are those of ``rawkit evaluate`` (rawkit/restore/evaluate.py), with the noise coefficients that
MegEngine/PMRID publishes for the Reno 10x (``run_benchmark.py``).  Peers run on the same noise in the same run:

* wavelet and non-local means of scikit-image on the Anscombe-stabilized planes;
* PMRID: FOLDER holds ``net_torch.py`` and ``torch_pretrained.ckp`` of a checkout of MegEngine/PMRID (Apache-2.0);
* BM3D: PYTHON is the interpreter of an environment with the package ``bm3d`` (its licence is non-commercial), which
  filters every stabilized plane.

"turned" is the mean over the eight turns of a picture (``--self-ensemble``).  One thread, float32.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from skimage.restoration import cycle_spin, denoise_nl_means, denoise_wavelet

from rawkit.noise.standard_scene import SPAN, pictures_in, reno10x
from rawkit.restore.denoise import Denoiser
from rawkit.restore.evaluate import Method, evaluate
from rawkit.sensor.params import NoiseParams
from rawkit.sensor.transforms import anscombe, inverse_anscombe

BM3D = """
import sys, numpy as np, bm3d
d = np.load(sys.argv[1])
np.save(sys.argv[1], np.stack([bm3d.bm3d(p, 1.0) for p in d]).astype(np.float32))
"""


def stabilized(planes_filter: Callable[[np.ndarray], np.ndarray]) -> Method:
    """A filter of unit-noise planes as a method on signal planes."""

    def method(planes: np.ndarray, params: NoiseParams) -> np.ndarray:
        return inverse_anscombe(planes_filter(anscombe(planes, params)).astype(np.float32), params)

    return method


def wavelet(planes: np.ndarray) -> np.ndarray:
    return np.stack([
        cycle_spin(
            plane, func=denoise_wavelet, max_shifts=3, workers=1,
            func_kw={"sigma": 1.0, "wavelet": "sym4", "mode": "soft", "method": "BayesShrink", "rescale_sigma": True},
        )
        for plane in planes
    ])  # fmt: skip


def nlm(planes: np.ndarray) -> np.ndarray:
    return np.stack(
        [denoise_nl_means(plane, patch_size=5, patch_distance=9, h=0.8, sigma=1.0, fast_mode=True) for plane in planes]
    )


def bm3d(python: str) -> Callable[[np.ndarray], np.ndarray]:
    """BM3D of every plane, in another interpreter (its seconds are not counted)."""

    def run(planes: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "planes.npy"
            np.save(file, planes)
            subprocess.run([python, "-c", BM3D, str(file)], check=True)
            return np.load(file)

    return run


def pmrid(folder: Path) -> Method:
    """PMRID as its paper runs it: clip, k-sigma to the anchor ISO 1600, times 256, network, back."""
    import torch

    sys.path.insert(0, str(folder))
    from net_torch import Network  # pyright: ignore[reportMissingImports]

    network = Network()
    network.load_state_dict(torch.load(folder / "torch_pretrained.ckp", map_location="cpu", weights_only=True))
    network = network.eval().to(memory_format=torch.channels_last)
    anchor = reno10x(1600)

    def method(planes: np.ndarray, params: NoiseParams) -> np.ndarray:
        scale = anchor.system_gain / params.system_gain
        shift = anchor.system_gain * (params.read_var / params.system_gain**2 - anchor.read_var / anchor.system_gain**2)
        x = 256 * (np.clip(planes / SPAN, 0, 1) * SPAN * scale + shift) / SPAN
        height, width = x.shape[1:]
        x = np.pad(x, ((0, 0), (0, -height % 32), (0, -width % 32)), mode="reflect").astype(np.float32)
        with torch.inference_mode():
            y = network(torch.from_numpy(x)[None].contiguous(memory_format=torch.channels_last))
        return (y[0, :, :height, :width].numpy() / 256 * SPAN - shift) / scale

    return method


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("RAWKIT_TEST_DATA", beside)) / "eval" / "Kodak24"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--count", type=int, help="use only so many pictures, evenly spread")
    parser.add_argument("--iso", type=float, nargs="+", default=[1600, 6400, 12800])
    parser.add_argument("--model", nargs="+", default=["classical"], help="our denoisers")
    parser.add_argument("--pmrid", type=Path, help="folder with net_torch.py and torch_pretrained.ckp")
    parser.add_argument("--bm3d-python", help="interpreter with the package bm3d")
    parser.add_argument("--only", nargs="+", help="methods to run")
    options = parser.parse_args()

    files = pictures_in(options.folder)
    if options.count:
        files = files[:: max(1, len(files) // options.count)][: options.count]
    methods: dict[str, Method] = {
        "noisy": lambda planes, params: planes,
        "wavelet per plane": stabilized(wavelet),
        "NLM per plane": stabilized(nlm),
    }
    if options.bm3d_python:
        methods["BM3D per plane"] = stabilized(bm3d(options.bm3d_python))
    if options.pmrid:
        methods["PMRID"] = pmrid(options.pmrid)
    for name in options.model:
        ours, denoise = f"rawkit {Path(name).stem}", Denoiser.load(name, "cpu").denoise_planes
        methods |= {ours: denoise, f"{ours}, turned": partial(denoise, self_ensemble=True)}
    if options.only:
        methods = {name: methods[name] for name in options.only}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for method in methods.values():  # compile before timing
        method(np.ones((4, 64, 64), np.float32), NoiseParams(1.0, 1.0))

    print(f"{len(files)} pictures of {options.folder.name}, {platform.machine()}")
    print(
        f"{'ISO':>6s} {'method':20s} {'raw dB':>8s} {'sRGB dB':>8s} {'SSIM':>6s} {'ratio':>6s} {'lag':>6s} {'s/MP':>6s}"
    )
    for s in evaluate(methods, files, {iso: reno10x(iso) for iso in options.iso}):
        print(
            f"{s.iso:6g} {s.method:20s} {s.raw_db:8.2f} {s.srgb_db:8.2f} {s.ssim:6.3f} {s.ratio:6.3f} {s.lag:6.3f} "
            f"{s.seconds_per_megapixel:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
