"""Devices by name, those that are missing, and one process per GPU."""

import pytest

from rawkit import devices
from rawkit.devices import environments, pick_device


def test_the_processor_is_always_there():
    assert pick_device("cpu") == "cpu"
    assert environments("cpu") == []


def test_a_device_that_is_not_there_is_named():
    torch = pytest.importorskip("torch")
    for name in ("tpu", *(() if torch.cuda.is_available() else ("cuda", "cuda:1"))):
        with pytest.raises(ValueError, match=f"no device '{name}'.*cpu"):
            pick_device(name)


def test_without_pytorch_there_is_the_processor(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    assert pick_device() == "cpu"
    with pytest.raises(ValueError, match="needs torch"):
        pick_device("cuda")


def test_processes_for_gpus(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments("cuda")] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments("cuda")] == ["3", "5"]
    assert environments("cuda:1") == environments("mps") == [{}]


def test_that_there_is_no_gpu_is_told_as_pytorch_tells_it(monkeypatch):
    torch = pytest.importorskip("torch")
    if not devices._could_have_gpu():
        assert not torch.cuda.is_available()
        assert not torch.backends.mps.is_available()
    with monkeypatch.context() as patch:
        patch.setattr(devices, "_could_have_gpu", lambda: True)
        told_by_torch = pick_device()
    assert pick_device() == told_by_torch
