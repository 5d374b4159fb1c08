"""Where does the time go between a noisy DNG and a denoised one?

    python benchmarks/denoise_speed.py FILE.dng --model NAME_OR_FILE [--workers N] [--device cpu] [--peer FOLDER]

Wall seconds of reading, transforms and tiling, the network itself, noise check and highlights, writing.
``--peer`` times PMRID's network (see
``denoise_quality.py``) on one megapixel beside ours, one thread each, best of five, alternating.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import rawkit
from rawkit.nn.raw_planes import network_input
from rawkit.restore.network import NetworkFilter


class Clock:
    """Adds up the seconds spent in some methods of an object, over all threads."""

    def __init__(self, owner: object, *methods: str) -> None:
        self.total = 0.0
        for name in methods:
            setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, method: Callable) -> Callable:
        def run(*given, **named):
            start = time.perf_counter()
            result = method(*given, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.total += time.perf_counter() - start
            return result

        return run


def timed(action):
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", type=Path)
    options = parser.parse_args()

    denoiser = rawkit.Denoiser.load(options.model, options.device)
    network = denoiser.bayer_filter
    assert isinstance(network, NetworkFilter), "this benchmark is about networks"
    rawkit.read_raw(options.file)  # compile the decoder
    image, reading = timed(lambda: rawkit.read_raw(options.file))
    params = rawkit.find_noise(image).params
    denoiser(image, params, workers=options.workers)  # warm up
    attention, forward = (Clock(network.network, name) for name in ("attention", "forward"))
    spent = []

    def timed_filter(*given, **named):
        result, seconds = timed(lambda: network(*given, **named))
        spent.append(seconds)
        return result

    watched = replace(denoiser, bayer_filter=timed_filter)
    (clean, _), denoising = timed(lambda: watched.with_check(image, params, workers=options.workers))
    filtering = spent[0]
    threads = options.workers if options.device == "cpu" else 1
    in_network = attention.total + forward.total / threads  # the patches of attention go one after the other
    with tempfile.TemporaryDirectory() as folder:
        write = lambda name, what: rawkit.write_dng(what, Path(folder) / name, source=options.file)  # noqa: E731
        write("compile.dng", clean)
        _, writing = timed(lambda: write("out.dng", clean))
    megapixels = image.mosaic.size / 1e6
    whole = reading + denoising + writing
    print(
        f"{options.file.name}: {megapixels:.1f} MP, {options.workers} threads, {platform.machine()}, {denoiser.device}"
    )
    for name, seconds in (
        ("read", reading),
        ("network", in_network),
        ("transforms and tiling", filtering - in_network),
        ("noise check, highlights, phases", denoising - filtering),
        ("write", writing),
        ("all", whole),
    ):
        print(f"{name:32s} {seconds:7.2f} s {100 * seconds / whole:5.1f} % {megapixels / max(seconds, 1e-9):8.1f} MP/s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if options.peer:
        compare(network, options.peer)


def compare(network: NetworkFilter, folder: Path) -> None:
    """One packed megapixel through both networks, one thread."""
    import sys

    sys.path.insert(0, str(folder))
    from net_torch import Network  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    peer = Network().eval().to(memory_format=torch.channels_last)
    y = 1000 * torch.rand(1, 4, 512, 512)
    given, _ = network_input(y, torch.ones(1, 1, 1, 1))
    ours = {
        "rawkit network": lambda: network.network(given),
        "rawkit network and its input": lambda: network.network(network_input(y, torch.ones(1, 1, 1, 1))[0]),
        "PMRID network": lambda: peer(y.contiguous(memory_format=torch.channels_last)),
    }
    best = dict.fromkeys(ours, np.inf)
    with torch.inference_mode():
        for _ in range(5):
            for name, run in ours.items():
                start = time.process_time()
                run()
                best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        print(f"{name:32s} {seconds / 1.048576:6.3f} CPU-s/MP")


if __name__ == "__main__":
    main()
