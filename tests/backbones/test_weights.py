import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_modules.backbones import Normalized, read_weights, with_weights
from lightning_modules.interfaces import Pretrained
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.mlp import MLP
from tests.command import ROOT
from tests.networks.compared import same


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(4, [3], 2)


STATE = network(0).state_dict()
LAYOUTS: dict[str, tuple[Any, str]] = {
    "weights.safetensors": (STATE, ""),
    "weights.pt": (STATE, ""),
    "last.ckpt": (
        {"epoch": 3, "state_dict": {**{f"network.{k}": v for k, v in STATE.items()}, "memory": torch.zeros(7)}},
        "network.",
    ),
    "ddp.pt": ({f"module.{k}": v for k, v in STATE.items()}, ""),
    "compiled.pt": ({"state_dict": {f"module._orig_mod.{k}": v for k, v in STATE.items()}}, ""),
    "ddp_compiled.pt": ({f"_orig_mod.module.{k}": v for k, v in STATE.items()}, ""),
    "folder/model.safetensors": (STATE, ""),
    "of_a_sequential.pth.tar": (
        {"model_state_dict": {**{f"module.0.{k}": v for k, v in STATE.items()}, "module.1.mean": torch.zeros(3)}},
        "module.0.",
    ),
    "model.pt": ({"model": STATE, "optimizer": {}}, ""),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_saved_network(name: str, tmp_path: Path) -> None:
    content, prefix = LAYOUTS[name]
    path, loaded = tmp_path / name, network(1)
    path.parent.mkdir(exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    if name.startswith("folder/"):
        torch.save({}, path.with_name("optimizer.bin"))
        path = path.parent
    assert not same(network(0), loaded)
    assert with_weights(loaded, str(path), prefix) is loaded
    assert same(network(0), loaded)


def test_published_networks_of_randomised_smoothing_load_with_their_own_names(tmp_path: Path) -> None:
    """The names are those in the configs of DRS and consistency: a stateless normalisation, then a ResNet with `fc`."""
    saved, loaded = CIFARResNet(8, shortcut="B"), Normalized(CIFARResNet(8, shortcut="B"), [0.5] * 3, [0.25] * 3)
    published = {f"1.{key.replace('linear.', 'fc.')}": value for key, value in saved.state_dict().items()}
    torch.save({"epoch": 90, "state_dict": published, "optimizer": {"state": {}}}, tmp_path / "checkpoint.pth.tar")
    with_weights(loaded, str(tmp_path / "checkpoint.pth.tar"), "1.", {"fc.": "linear."})
    assert same(saved, loaded.network)


def test_a_normalized_network_takes_its_own_keys_and_those_of_the_network_inside(tmp_path: Path) -> None:
    saved = Normalized(network(0), [0.5], [0.5])
    save_file(saved.network.state_dict(), tmp_path / "inside.safetensors")
    save_file(saved.state_dict(), tmp_path / "whole.safetensors")
    for name in ("inside", "whole"):
        loaded = Normalized(network(1), [0.5], [0.5])
        with_weights(loaded, str(tmp_path / f"{name}.safetensors"))
        assert same(saved, loaded)


def test_batch_normalisation_counters_may_be_absent(tmp_path: Path) -> None:
    saved, loaded = CIFARResNet(8), CIFARResNet(8)
    old = {key: value for key, value in saved.state_dict().items() if "num_batches_tracked" not in key}
    save_file(old, tmp_path / "old.safetensors")
    with_weights(loaded, str(tmp_path / "old.safetensors"))
    assert same(saved, loaded)


def test_names_and_shapes_that_do_not_fit_are_all_reported_and_nothing_is_changed(tmp_path: Path) -> None:
    state = network(0).state_dict()
    state["layers.0.weight"] = torch.zeros(3, 5)
    state["layers.9.weight"] = state.pop("layers.2.weight")
    save_file(state, tmp_path / "other.safetensors")
    loaded, untouched = network(1), network(1)
    with pytest.raises(ValueError, match="does not fit MLP") as error:
        with_weights(loaded, str(tmp_path / "other.safetensors"))
    assert "missing: layers.2.weight" in str(error.value)
    assert "unexpected: layers.9.weight" in str(error.value)
    assert "wrong shape: layers.0.weight [3, 5] instead of [3, 4]" in str(error.value)
    assert same(loaded, untouched)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ValueError, match=name):
            with_weights(network(0), str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cut.safetensors", {}, ValueError, "cut.safetensors is not a readable weights file"),
        ("cut.pt", {}, ValueError, "cut.pt is not a readable weights file"),
        ("empty.pt", {}, ValueError, "empty.pt is not a readable weights file"),
        ("log.pt", {}, ValueError, "log.pt must contain a state dict.*epoch, loss"),
        ("tensor.pt", {}, ValueError, "tensor.pt must contain a state dict.*Tensor"),
        ("nothing.pt", {}, FileNotFoundError, r"no weights at .*nothing\.pt"),
        ("bare", {}, FileNotFoundError, r"no weights in the folder .*\.safetensors"),
        ("bare/notes.txt", {}, ValueError, r"must end in \.safetensors.*notes\.txt"),
        ("two", {}, ValueError, r"several files of weights, name one: a\.safetensors, b\.safetensors"),
        ("two/a.safetensors", {"prefix": "network."}, ValueError, r"no key of .* starts with prefix 'network\.'.*: x"),
        (
            "two/a.safetensors",
            {"renamed": {"head.": ""}},
            ValueError,
            r"renamed: no key of .* starts with 'head\.'.*: x",
        ),
    ],
)
def test_files_that_can_not_be_read_are_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "log.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for folder in ("bare", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bare/notes.txt").write_text("")
    for file in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"two/{file}.safetensors")
    with pytest.raises(error, match=message):
        read_weights(tmp_path / name, **options)


def test_nothing_is_read_on_the_meta_device(tmp_path: Path) -> None:
    with torch.device("meta"):
        meta = network(0)
    assert with_weights(meta, str(tmp_path / "nothing.pt")) is meta


def test_a_network_with_weights_of_a_file_is_pretrained(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt")
    assert not isinstance(network(1), Pretrained)
    assert with_weights(network(1), str(tmp_path / "a.pt")).weights_from == str(tmp_path / "a.pt")
    assert isinstance(with_weights(network(1), str(tmp_path / "a.pt")), Pretrained)


def test_each_file_that_reads_weights_marks_the_network() -> None:
    """Each reader of weights uses `load` or `from_pretrained`, which mark it, or `loaded_from`."""
    reads = r"\b(read_weights|weights_in|in_own_names|pretrained=True|from_single_file)\b"
    places = {path: path.read_text() for path in (ROOT / "lightning_modules").rglob("*.py") if path.name[0] != "_"}
    reading = {
        path
        for path, text in places.items()
        if re.search(rf"{reads}\(?", re.sub('""".*?"""', "", text, flags=re.DOTALL))
    }
    assert len(reading) > 15
    unmarked = {str(path) for path in reading if not re.search(r"\b(load|loaded_from|from_pretrained)\(", places[path])}
    assert unmarked == set()
