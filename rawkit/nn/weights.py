"""Network weights: safetensors with the configuration in the header.

The header's metadata holds ``format`` = "rawkit", ``architecture``, ``config`` (JSON) and ``about`` (JSON: name, data,
licence, figures).  Nothing is ever unpickled: a file that is not safetensors is refused by its first bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rawkit.errors import WeightsError
from rawkit.nn.restormer import RawRestormer, RestormerConfig
from rawkit.resources import parse_json, replacing

FORMAT = "rawkit"
ARCHITECTURE = "RawRestormer"
_LARGEST_HEADER = 4 << 20  # bytes


def save_tensors(
    path: Path | str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write tensors and header strings; the file appears whole or not at all."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(save(contiguous, metadata={"format": FORMAT, **header}))


def load_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header strings of a file that ``save_tensors`` wrote.

    Raises
    ------
    WeightsError
        Not there, not safetensors, truncated, or not ours.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; give a .safetensors file.") from None
    header = _header(content, path)
    try:
        return load(content), header
    except SafetensorError as error:
        raise WeightsError(f"{path.name}: damaged ({error}); fetch the file again.") from None


def _header(content: bytes, path: Path) -> dict[str, str]:
    size = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    if not 2 <= size <= min(_LARGEST_HEADER, len(content) - 8) or content[8:9] != b"{":
        raise WeightsError(f"{path.name} is not a safetensors file (or cut short); rawkit reads no other weights.")
    try:
        metadata = {
            str(name): str(text) for name, text in parse_json(content[8 : 8 + size]).get("__metadata__", {}).items()
        }
    except (ValueError, AttributeError):
        raise WeightsError(f"{path.name}: its header is damaged; fetch the file again.") from None
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path.name} holds weights of something else than rawkit; train or fetch rawkit's own.")
    return metadata


def save_network(
    path: Path | str,
    network: RawRestormer,
    *,
    about: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
) -> None:
    """Write a network's weights, by default in half precision.

    Parameters
    ----------
    about : JSON values
        Name, training data, licence, figures.
    """
    header = {
        "architecture": ARCHITECTURE,
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
        "about": json.dumps(dict(about), sort_keys=True),
    }
    save_tensors(
        path, {name: value.to(dtype) for name, value in network.state_dict().items()}, header, overwrite=overwrite
    )


def load_network(path: Path | str) -> tuple[RawRestormer, dict[str, Any]]:
    """The network in a file, float32 and in evaluation mode, and what the file says about it.

    Raises
    ------
    WeightsError
        As ``load_tensors``; or another architecture, or weights that do not fit the configuration.
    """
    tensors, header = load_tensors(path)
    name = Path(path).name
    if header.get("architecture") != ARCHITECTURE:
        raise WeightsError(f"{name} holds a {header.get('architecture')}; a {ARCHITECTURE} is needed here.")
    try:
        config = RestormerConfig.from_dict(parse_json(header["config"]))
        about = dict(parse_json(header["about"]))
        if max((*config.encoder, config.bottom, *config.decoder)) > len(tensors):
            raise ValueError(f"more blocks than there are tensors, {len(tensors)}")
        with torch.device("meta"):  # shapes without memory: a network of any size may be announced
            expected = RawRestormer(config).state_dict()
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise WeightsError(f"{name}: configuration not understood ({error}); is the file newer than rawkit?") from None
    wrong = sorted(set(expected) ^ set(tensors)) or sorted(
        k for k, v in expected.items() if tensors[k].shape != v.shape or not tensors[k].is_floating_point()
    )
    if wrong:
        raise WeightsError(f"{name}: {wrong[0]} does not fit its configuration ({len(wrong)} such); fetch it again.")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise WeightsError(f"{name}: weights that are not numbers; fetch the file again.")
    network = RawRestormer(config)
    network.load_state_dict({k: v.float() for k, v in tensors.items()})
    return network.eval(), about
