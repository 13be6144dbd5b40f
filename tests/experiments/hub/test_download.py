"""A run is loaded from the Hub using only its settings and weights, under the rules for untrusted runs."""

from pathlib import Path

import pytest
import torch
import yaml

from experiments.hub.download import download_run
from experiments.load_run import load_run
from tests.experiments.hub.stand_in_hub import COMMIT, StandInHub


@pytest.fixture
def uploaded(pushed: Path, hub: StandInHub) -> Path:
    hub.repositories["me/cats"] = pushed
    return pushed


@pytest.mark.parametrize("revision", ["", "@v1", f"@{COMMIT}"])
def test_a_run_on_the_hub_is_the_run_that_was_pushed(
    revision: str, uploaded: Path, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model, data = load_run(f"hf://me/cats{revision}")
    assert data.class_names == ["cat", "dog"]
    for name, value in load_run(uploaded)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert {*hub.asked} == {"config.yaml", "model.safetensors"}
    assert [*Path.cwd().iterdir()] == []


def test_offline_a_cached_run_loads_and_another_does_not(uploaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download_run("hf://me/cats")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load_run("hf://me/cats")
    with pytest.raises(FileNotFoundError, match=r"hf://me/dogs is not in the .* cache .*run `hf download me/dogs`"):
        load_run("hf://me/dogs")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://cats", ValueError, "'hf://cats' is not the address of a run: expected hf://owner/name"),
        ("hf://me/../cats", ValueError, "is not the address of a run"),
        ("hf://me/cats@../../x", ValueError, "is not the address of a run"),
        ("hf://me/none", FileNotFoundError, "hf://me/none does not exist, or is private: .*`hf auth login`"),
        ("hf://secret/model", FileNotFoundError, "does not exist, or is private"),
        ("hf://gated/model", PermissionError, "gated: accept its conditions on https://huggingface.co/gated/model"),
        ("hf://me/cats@v2", FileNotFoundError, "me/cats has no revision v2"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    address: str, error: type[Exception], message: str, uploaded: Path
) -> None:
    with pytest.raises(error, match=message) as raised:
        load_run(address)
    assert "\n" not in str(raised.value)


def test_another_repository_is_no_run(hub: StandInHub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("model: null\n")
    hub.repositories["me/other"] = tmp_path / "other"
    with pytest.raises(FileNotFoundError, match=r"hf://me/other has no model\.safetensors: it is not a run that was"):
        load_run("hf://me/other")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_path", "os.system", r"os\.system is rejected"),
        ("class_path", "timm.create_model", r"timm\.create_model is rejected"),
        ("init_args", {"network": "http://example.com/x.yaml"}, "hf://me/cats/config.yaml: .* must not fetch anything"),
    ],
)
def test_a_strangers_settings_are_rejected(
    key: str, value: object, message: str, uploaded: Path, hub: StandInHub, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    settings = yaml.safe_load((uploaded / "config.yaml").read_text())
    settings["model"][key] = value
    (hostile / "config.yaml").write_text(yaml.safe_dump(settings))
    (hostile / "model.safetensors").write_bytes((uploaded / "model.safetensors").read_bytes())
    hub.repositories["me/cats"] = hostile
    with pytest.raises(ValueError, match=message) as raised:
        load_run("hf://me/cats")
    assert "\n" not in str(raised.value)
