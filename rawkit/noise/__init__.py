"""Physically realistic raw noise.  What needs torch is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["NoisyCrops"]

if TYPE_CHECKING:
    from rawkit.noise.training_pairs import NoisyCrops


def __getattr__(name: str) -> Any:
    if name != "NoisyCrops":
        raise AttributeError(f"module 'rawkit.noise' has no attribute {name!r}")
    from rawkit.noise.training_pairs import NoisyCrops

    return NoisyCrops
