"""Camera raw noise: calibrate a sensor, denoise a raw file, make realistic noisy raws.

Every public name is listed here and loaded when it is first used, so that ``import rawkit`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# rawkit 0.6 (2017), an unrelated package, has the same import name; installed beside ours, the files mix.
if (Path(__file__).parent / "raw.py").exists():
    raise ImportError(
        "files of the old package 'rawkit' 0.6 lie in the same folder as rawkit-camera; "
        "run: pip uninstall -y rawkit rawkit-camera, then: pip install rawkit-camera"
    )

__version__ = "0.1.0"

_HOME = {
    "CFA": "raw.image",
    "RawImage": "raw.image",
    "LinearImage": "raw.image",
    "MosaicSpec": "raw.mosaic",
    "read_raw": "raw.read",
    "write_dng": "raw.dng",
    "develop": "raw.develop",
    "Gain": "sensor.gain",
    "NoiseParams": "sensor.params",
    "NoiseModel": "sensor.profile",
    "CameraProfile": "sensor.profile",
    "FrameSet": "sensor.frames",
    "calibrate": "sensor.calibrate",
    "find_noise": "sensor.database",
    "NoiseSynthesizer": "noise.synthesis",
    "Denoiser": "restore.denoise",
}

__all__ = [
    "CFA",
    "CameraProfile",
    "Denoiser",
    "FrameSet",
    "Gain",
    "LinearImage",
    "MosaicSpec",
    "NoiseModel",
    "NoiseParams",
    "NoiseSynthesizer",
    "RawImage",
    "calibrate",
    "develop",
    "find_noise",
    "read_raw",
    "write_dng",
]

if TYPE_CHECKING:
    from rawkit.noise.synthesis import NoiseSynthesizer
    from rawkit.raw.develop import develop
    from rawkit.raw.dng import write_dng
    from rawkit.raw.image import CFA, LinearImage, RawImage
    from rawkit.raw.mosaic import MosaicSpec
    from rawkit.raw.read import read_raw
    from rawkit.restore.denoise import Denoiser
    from rawkit.sensor.calibrate import calibrate
    from rawkit.sensor.database import find_noise
    from rawkit.sensor.frames import FrameSet
    from rawkit.sensor.gain import Gain
    from rawkit.sensor.params import NoiseParams
    from rawkit.sensor.profile import CameraProfile, NoiseModel


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rawkit' has no attribute {name!r}")
    return getattr(import_module(f"rawkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
