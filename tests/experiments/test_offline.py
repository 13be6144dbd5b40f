"""With HF_HUB_OFFLINE=1, no library asks the network, and errors name what is missing."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import OpenerDirector

import pytest
import torch

from experiments import offline
from lightning_modules import backbones
from tests.command import run

FORBIDDING = """
import runpy
import sys

open({log!r}, "w").write("watching\\n")

def forbid(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        open({log!r}, "a").write(f"{{event}} {{arguments}}\\n")
        raise RuntimeError("no network")

sys.addaudithook(forbid)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A script that runs another script without a network."""

DIGITS = "datamodules.classification.digits.Digits"
LORA = ("fit", "--config", "configs/finetuning/lora.yaml")
LORA += ("--data.images.data_dir", "docs/images", "--data.images.prompt", "a figure")


def test_the_variable_is_read_as_hugging_face_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.constants import _is_true

    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    for value in ("1", "on", "True", "YES", "0", "", "false", "2"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert offline.is_offline() == _is_true(value), value


def test_a_value_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenerDirector, "open", OpenerDirector.open)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    offline.work_offline()
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline.work_offline()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["WANDB_MODE"] == "disabled"


@pytest.mark.parametrize(
    ("fetch", "said"),
    [
        (lambda: torch.hub.load_state_dict_from_url("https://example.org/x.pth"), "is not fetched offline"),
        (lambda: backbones.timm_model("resnet18.a1_in1k", num_classes=2, pretrained=True), "not in the Hugging Face"),
        (lambda: backbones.diffusers_model("google/ddpm-cifar10-32"), "hf download google/ddpm-cifar10-32"),
        (lambda: backbones.diffusion.text_to_image_pipeline("no/such"), "hf download no/such"),
    ],
)
def test_nothing_is_fetched(fetch: Callable[[], object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    with offline.nothing_fetched(), pytest.raises(OSError, match=said):
        fetch()


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("doctor", "configs/elr/demo.yaml"), 0, "nothing is fetched"),
        (("fit", "--config", "configs/elr/demo.yaml", "--trainer.max_epochs", "1", "--test_after_fit", "true"), 0, ""),
        (LORA, 1, "hf download stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (("fit", "--config", "configs/nmtune/cifar10_vit_lora.yaml", "--data.images", DIGITS), 1, "Hugging Face cache"),
    ],
)
def test_commands_ask_no_network(arguments: tuple[str, ...], status: int, said: str, tmp_path: Path) -> None:
    log, script = tmp_path / "asked", tmp_path / "forbidding.py"
    script.write_text(FORBIDDING.format(log=str(log)))
    more = ("--run_directory", str(tmp_path / "run")) if arguments[0] == "fit" else ()
    launcher = (sys.executable, str(script))
    assert said in run(*arguments, *more, status=status, launcher=launcher, HF_HUB_OFFLINE="1")
    assert log.read_text() == "watching\n"
