"""Runs that save memory, resume exactly, and use optimizers and schedulers from a configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from experiments.run_directory import read_checkpoint
from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights
from lightning_modules.diffusion.finetuning import DiffusionFineTuning
from lightning_modules.optim.schedules import WarmupConstant
from tests.diffusion.finetuning.models import captioned, pixel_space, trainer, tuning

KINDS: tuple[Any, ...] = ("loha", "lokr", "oft")
DORA: dict[str, Any] = {"adapters": Adapters(2, alpha=3, rslora=True, dora=True)}


def fitted(
    text_to_image: Path, folder: Path, epochs: int, options: tuple[dict[str, Any], dict[str, Any]], resumed: Any = None
) -> DiffusionFineTuning:
    """Train with a warm-up for `epochs` epochs of one step each, starting from a checkpoint if one is given."""
    torch.manual_seed(0)
    network = TextToImage(str(text_to_image), tuning="lora", **options[0])
    module = tuning(
        network, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01), lr_scheduler=lambda o: WarmupConstant(o, 5),
        **options[1],
    )  # fmt: skip
    module.on_train_batch_start = lambda batch, place: (  # type: ignore[method-assign]
        torch.manual_seed(module.current_epoch + place) and None
    )
    own = trainer(folder)
    own.fit_loop.max_epochs = epochs
    own.fit(module, captioned(folder.parent / "images"), ckpt_path=resumed, weights_only=True)
    own.save_checkpoint(folder / "last.ckpt")
    [optimizer] = own.optimizers
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * min(own.global_step / 5, 1))
    return module


@pytest.mark.parametrize(
    "options",
    [
        (DORA, {}),
        *(
            pytest.param(({"adapters": Adapters(2, kind=k)}, {}), marks=[pytest.mark.nightly] * (k != "oft"))
            for k in KINDS
        ),
        ({"text_adapters": Adapters(2)}, {"caption_dropout": 0.5}),
        ({}, {"average_on_cpu": True}),
        ({}, {"average_decay": 0.0}),
        ({"weights": Weights(quantization="int8")}, {"average_on_cpu": True}),
    ],
    ids=["dora", *KINDS, "text", "average_on_cpu", "no_average", "int8"],
)
def test_a_run_resumes_exactly(options: Any, text_to_image: Path, tmp_path: Path) -> None:
    if "weights" in options[0]:
        pytest.importorskip("torchao")
    whole = fitted(text_to_image, tmp_path / "whole", 4, options)
    fitted(text_to_image, tmp_path / "half", 2, options)
    again = fitted(text_to_image, tmp_path / "again", 4, options, tmp_path / "half" / "last.ckpt")
    expected, found = whole.state_dict(), again.state_dict()
    assert list(expected) == list(found)
    assert any("average.weights" in key for key in found) == (options[1].get("average_decay") != 0)
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    assert whole.average.updates == again.average.updates == 4
    if options[0] is DORA:
        message = "adapters.alpha must be 3, as in the checkpoint, got 2"
        with pytest.raises(ValueError, match=message):
            fitted(
                text_to_image,
                tmp_path / "other",
                4,
                ({"adapters": replace(DORA["adapters"], alpha=2)}, {}),
                tmp_path / "half/last.ckpt",
            )


def test_averages_on_the_cpu_are_those_of_the_device(text_to_image: Path, tmp_path: Path) -> None:
    one, other = (
        fitted(text_to_image, tmp_path / str(on_cpu), 2, ({}, {"average_on_cpu": on_cpu})) for on_cpu in (False, True)
    )
    assert other.average.host is not None
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


def test_averages_on_the_cpu_are_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = tuning(pixel_space(), average_on_cpu=True)
    monkeypatch.setattr(DiffusionFineTuning, "device_mesh", property(lambda self: {}))
    module.trainer = type("Trainer", (), {"datamodule": None})()
    with pytest.raises(ValueError, match="average_on_cpu must be false with ModelParallelStrategy"):
        module.configure_model()


@pytest.mark.parametrize("optimizer", ["timm.optim.Lion", "bitsandbytes.optim.AdamW8bit"])
def test_an_optimizer_outside_pytorch_is_named_by_its_class_path(optimizer: str, tmp_path: Path) -> None:
    pytest.importorskip(optimizer.partition(".")[0])
    arguments = {
        "--config": "configs/finetuning/demo.yaml", "--run_directory": str(tmp_path / "run"),
        "--model.optimizer": f"{{class_path: {optimizer}, init_args: {{lr: 1.0e-4}}}}",
        "--model.lr_scheduler": f"{{class_path: {WarmupConstant.__module__}.WarmupConstant, init_args: {{warmup: 4}}}}",
        "--trainer.max_epochs": "1", "--trainer.limit_train_batches": "2", "--trainer.limit_val_batches": "0",
        "--trainer.callbacks": "null", "--data.loading.num_workers": "0",
    }  # fmt: skip
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
    assert train.main(["fit", *(part for pair in arguments.items() for part in pair), *quiet]) == 0
    [saved] = (tmp_path / "run" / "checkpoints").glob("last*.ckpt")
    checkpoint = read_checkpoint(saved)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.5e-4)
    assert checkpoint["optimizer_states"][0]["state"]
