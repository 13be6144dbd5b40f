"""Training that resumes within an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.loading import Loading
from tests.datamodules.recorder import Recorder
from tests.trainers import quiet


class AsksForSteps(LightningModule):
    """A user's module whose schedule needs the total number of training steps.

    Args:
        asked_in: hook that requests this number; the loaders are then built before the checkpoint is loaded.
    """

    def __init__(self, asked_in: str) -> None:
        super().__init__()
        self.asked_in = asked_in
        self.linear = torch.nn.Linear(64, 10)
        self.steps = 12
        self.seen: list[tuple[int, list[int]]] = []

    def _ask(self, hook: str) -> None:
        if hook == self.asked_in:
            self.steps = int(self.trainer.estimated_stepping_batches)

    def setup(self, stage: str) -> None:
        self._ask("setup")

    def on_fit_start(self) -> None:
        self._ask("on_fit_start")

    def configure_optimizers(self) -> Any:
        self._ask("configure_optimizers")
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch_idx, batch["index"].tolist()))
        return torch.nn.functional.cross_entropy(self.linear(batch["image"].flatten(1)), batch["label"])


BY_STEPS: dict[str, Any] = {"max_epochs": -1, "max_steps": 12}


@pytest.mark.parametrize(
    ("asked_in", "step", "at_end", "workers", "limits"),
    [
        *(
            (hook, step, False, 0, {})
            for hook in ("configure_optimizers", "setup", "on_fit_start")
            for step in (2, 4, 7)
        ),
        *(
            ("none", step, at_end, 0, limits)
            for step, at_end in ((2, False), (4, False), (4, True))
            for limits in ({}, BY_STEPS)
        ),
        # Lightning creates iterators before it restores the epoch; those of workers begin at once.
        ("none", 4, True, 1, {}),
        ("none", 4, True, 1, BY_STEPS),
        ("none", 4, False, 1, {}),
        ("configure_optimizers", 7, False, 1, {}),
    ],
)
def test_a_resumed_run_trains_on_the_batches_that_were_left(
    asked_in: str, step: int, at_end: bool, workers: int, limits: dict[str, Any], tmp_path: Path
) -> None:
    """The checkpoint is that of a batch, or of the end of the epoch; the run is limited by epochs or by steps."""

    def fitted(checkpoint: Path | None = None) -> AsksForSteps:
        images = Digits(train_size=40)
        module, data = (
            AsksForSteps(asked_in),
            LabelledImages(images, batch_size=10, loading=Loading(seed=3, num_workers=workers)),
        )
        every: dict[str, Any] = {"save_on_train_epoch_end": True} if at_end else {"every_n_train_steps": step}
        saves = ModelCheckpoint(tmp_path / "saved", filename="{step}", save_top_k=-1, **every)
        own = {"callbacks": [] if checkpoint else [saves], "enable_checkpointing": checkpoint is None}
        trainer = quiet(**({"max_epochs": 3} | limits), **own)
        trainer.fit(module, data, ckpt_path=checkpoint)
        return module

    whole = fitted()
    resumed = fitted(tmp_path / "saved" / f"step={step}.ckpt")
    assert whole.steps == 12
    assert resumed.seen == whole.seen[step:]
    assert torch.equal(whole.linear.weight, resumed.linear.weight)


def test_evaluation_batches_are_those_of_training_unless_they_are_given() -> None:
    for given, expected in ((None, 7), (20, 20)):
        data = LabelledImages(Digits(train_size=60), batch_size=7, loading=Loading(evaluation_batch_size=given))
        data.setup("test")
        assert len(next(iter(data.test_dataloader()))["label"]) == expected


def test_a_loop_without_a_trainer_gets_the_images_of_a_step() -> None:
    """Digits are stored as integers in 0..16: dividing by 255, or not at all, would be wrong in silence."""
    data, module = (
        LabelledImages(
            Digits(train_size=40), batch_size=10, loading=Loading(seed=3), split=Split(validation_fraction=0.0)
        ),
        Recorder(),
    )
    with pytest.raises(RuntimeError, match=r'LabelledImages has not read its data: call setup\("test"\) first'):
        data.test_dataloader()
    for stage in ("fit", "test"):
        data.setup(stage)
    trained, tested = list(data.train_dataloader()), list(data.test_dataloader())
    stored = data.test_set.source.fetch(torch.arange(10), None)
    torch.testing.assert_close(tested[0]["image"], stored.float() / 16, rtol=0, atol=0)
    quiet(max_epochs=1).fit(module, data)
    quiet().test(module, data, verbose=False)
    again = list(data.test_dataloader())  # after a Trainer has used the data
    for batches, steps in ((trained, module.trained), (tested, module.evaluated), (again, module.evaluated)):
        for batch, step in zip(batches, steps, strict=True):
            assert batch["image"].dtype == torch.float32
            torch.testing.assert_close(dict(batch), step, rtol=0, atol=0)
