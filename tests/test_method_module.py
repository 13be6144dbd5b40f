"""Tests of the base class of every method."""

import importlib
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from callbacks.guards import SeedEveryBatch
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.elr import ELR
from tests.command import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "last.ckpt"
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
    trainer.strategy.connect(CrossEntropy(nn.Linear(2, 3), 3))
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_a_missing_constructor_argument_names_load_run(checkpoint: Path) -> None:
    with pytest.raises(TypeError, match=r"ELR.load_from_checkpoint is missing .*network.*load_run\(RUN_DIRECTORY\)"):
        ELR.load_from_checkpoint(checkpoint)


def test_constructor_arguments_are_enough(checkpoint: Path) -> None:
    network = nn.Linear(2, 3)
    loaded = CrossEntropy.load_from_checkpoint(checkpoint, network=network, num_classes=3, weights_only=True)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert loaded.network is network
    assert torch.equal(network.weight, saved["network.weight"])


class Broken(MethodModule):
    def __init__(self) -> None:
        super().__init__()
        raise TypeError("an error of its own")


def test_an_error_within_the_constructor_stays_what_it_is(checkpoint: Path) -> None:
    with pytest.raises(TypeError, match=r"^an error of its own$"):
        Broken.load_from_checkpoint(checkpoint)


def test_several_processes_without_seeds_of_their_batches_are_told() -> None:
    module: Any = CrossEntropy(nn.Linear(2, 3), 3)
    for processes, callbacks, warned in ((2, [], 1), (2, [SeedEveryBatch()], 0), (1, [], 0)):
        module._trainer = SimpleNamespace(world_size=processes, callbacks=callbacks)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert module.configure_callbacks() == []
        assert [str(each.message)[:44] for each in said] == ["with 2 processes, random numbers differ from"] * warned


def test_every_method_has_this_base() -> None:
    files = (ROOT / "lightning_modules").rglob("*.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem != "__init__"]
    found = [each for name in names for each in vars(importlib.import_module(name)).values()]
    classes = {each for each in found if isinstance(each, type) and issubclass(each, LightningModule)}
    assert len(classes) > 70
    assert {each for each in classes if not issubclass(each, MethodModule)} == {LightningModule}
