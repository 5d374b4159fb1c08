"""Weights travel with their configuration, and anything else is refused in one line."""

import json
import pickle
import time
import zipfile

import pytest

torch = pytest.importorskip("torch")

from rawkit.errors import WeightsError  # noqa: E402
from rawkit.nn.restormer import RawRestormer, RestormerConfig  # noqa: E402
from rawkit.nn.weights import load_network, load_tensors, save_network, save_tensors  # noqa: E402

CONFIG = RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), head_width=8)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    network = RawRestormer(CONFIG)
    torch.nn.init.normal_(network.output.weight)
    path = tmp_path / "small.safetensors"
    save_network(path, network, about={"name": "small", "licence": "Apache-2.0"})
    return network, path


def refused(path):
    with pytest.raises(WeightsError) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_within_half_precision(saved):
    network, path = saved
    loaded, about = load_network(path)
    assert about == {"name": "small", "licence": "Apache-2.0"}
    assert loaded.config == CONFIG
    assert not loaded.training
    for a, b in zip(network.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2**-11, atol=2**-24)  # float16: 11 bits


def test_existing_weights_are_not_replaced(saved):
    network, path = saved
    with pytest.raises(Exception, match="exists"):
        save_network(path, network, about={})


@pytest.mark.parametrize("length", [0, 5, 8, 100, 3000, -1])
def test_truncated(saved, length):
    _, path = saved
    path.write_bytes(path.read_bytes()[:length])
    assert path.name in refused(path)


def test_pickle_under_another_name(tmp_path):
    for name, content in (("a", pickle.dumps({"x": 1})), ("b", b"\x80\x02" + b"0" * 100)):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        assert "not a safetensors file" in refused(path)
    path = tmp_path / "torch.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))
    assert "not a safetensors file" in refused(path)


def test_other_peoples_weights(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    assert "something else" in refused(path)
    save_tensors(tmp_path / "state.safetensors", {"w": torch.zeros(2)}, {"architecture": "Other"})
    assert "Other" in refused(tmp_path / "state.safetensors")


def test_weights_of_another_shape(saved, tmp_path):
    _, path = saved
    tensors, header = load_tensors(path)
    tensors["embed.0.weight"] = tensors["embed.0.weight"][:, :-1]
    save_tensors(tmp_path / "b.safetensors", tensors, {k: v for k, v in header.items() if k != "format"})
    assert "does not fit" in refused(tmp_path / "b.safetensors")


def test_missing_and_not_finite(saved, tmp_path):
    _, path = saved
    assert "No such file" in refused(tmp_path / "none.safetensors")
    tensors, header = load_tensors(path)
    tensors["embed.0.weight"] = torch.full_like(tensors["embed.0.weight"], float("nan"))
    save_tensors(tmp_path / "c.safetensors", tensors, {k: v for k, v in header.items() if k != "format"})
    assert "not numbers" in refused(tmp_path / "c.safetensors")


def test_damaged_header(saved):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[20] = 0xFF
    path.write_bytes(bytes(content))
    assert path.name in refused(path)


def test_bundled_weights_load_and_have_cards():
    from rawkit.resources import bundled_weights, data_folder, find_weights

    for name, entry in bundled_weights().items():
        path = find_weights(name)
        assert path.stat().st_size == entry["bytes"] < 16e6
        network, about = load_network(path)
        assert about["name"]
        assert not network.training
        card = (data_folder("models") / entry["card"]).read_text(encoding="utf-8")
        for heading in ("Training data", "Licence", "Figures", "Limits"):
            assert heading in card, (name, heading)


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    import json

    from rawkit import resources

    (tmp_path / "manifest.json").write_text(
        json.dumps({"weights": {"x": {"file": "x.safetensors", "sha256": "0" * 64, "bytes": 1, "card": "x.md"}}})
    )
    monkeypatch.setattr(resources, "data_folder", lambda name: tmp_path)
    with pytest.raises(WeightsError, match="missing"):
        resources.find_weights("x")
    (tmp_path / "x.safetensors").write_bytes(b"changed")
    with pytest.raises(WeightsError, match="other SHA-256"):
        resources.find_weights("x")
    with pytest.raises(WeightsError, match="there are: classical, x"):
        resources.find_weights("y", also=("classical",))


@pytest.mark.parametrize(
    "change",
    [{"widths": [10**6, 10**6]}, {"encoder": [10**9]}, {"bottom": 10**9}, {"decoder": [10**9], "bottom": -(10**9)},
     {"head_width": 0}, {"widths": ["a", 2]}, {"stem": -1}, {"unheard": 1}, [], 0.5],
)  # fmt: skip
def test_an_impossible_configuration_is_refused_before_memory_is_taken(saved, tmp_path, change):
    tensors, header = load_tensors(saved[1])
    config = {**json.loads(header["config"]), **change} if isinstance(change, dict) else change
    header = {"architecture": header["architecture"], "about": header["about"], "config": json.dumps(config)}
    save_tensors(tmp_path / "odd.safetensors", tensors, header)
    start = time.process_time()
    assert "configuration" in refused(tmp_path / "odd.safetensors")
    assert time.process_time() - start < 2
