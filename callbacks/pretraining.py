"""Pretrain a part of the module on other data, before the run fine-tunes or freezes this part."""

from operator import attrgetter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from datamodules.arguments import at_least
from lightning_modules.interfaces import SeededData, data_with


class Pretraining(Callback):
    """Train a separate module on its own data, and copy its network's weights to a part of the run's module.

    This callback is meant for pretraining that takes minutes, on a single process. For longer pretraining, use a
    separate run, and load its checkpoint with `lightning_modules.backbones.with_weights`. The pretrained network must
    have all parameters of the part, under the same names. Further parameters, such as those of a classifier head on an
    encoder, are dropped. Each pretrained part needs a separate callback. A resumed run loads the weights from its
    checkpoint, and does not pretrain again. Checkpoints contain the pretrained part, even if the module leaves frozen
    parts out of its checkpoints.

    Args:
        model: module to pretrain.
        data: DataModule for pretraining; its `seed` is set to that of the run's DataModule.
        max_epochs: number of epochs of pretraining.
        part: dotted name, in the run's module, of the part that receives the weights.
        source: dotted name, in `model`, of the network whose weights are copied.
    """

    def __init__(
        self,
        model: LightningModule,
        data: LightningDataModule,
        max_epochs: int,
        part: str = "encoder",
        source: str = "network",
    ) -> None:
        at_least(1, max_epochs=max_epochs)
        self.model = model
        self.data = data
        self.max_epochs = max_epochs
        self.part = part
        self.source = source

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.world_size > 1:
            raise ValueError(
                f"Pretraining needs one process, but the trainer has {trainer.world_size}: pretrain in a separate "
                f"run, and load its checkpoint with lightning_modules.backbones.with_weights"
            )
        for name, module in ((self.part, pl_module), (self.source, self.model)):
            try:
                found = attrgetter(name)(module)
            except AttributeError:
                found = None
            if not isinstance(found, torch.nn.Module):
                raise TypeError(f"Pretraining needs a module with `{name}`, but {type(module).__name__} has none")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        part = attrgetter(self.part)(pl_module)
        place = next(name for name, module in pl_module.named_modules() if module is part)  # `part` may be a property
        for name, value in part.state_dict().items():
            checkpoint["state_dict"].setdefault(f"{place}.{name}", value)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        data = data_with(trainer, SeededData)
        self.data.seed = 0 if data is None else data.seed  # type: ignore[attr-defined]
        first = Trainer(
            max_epochs=self.max_epochs,
            accelerator=trainer.accelerator,
            devices=[pl_module.device.index] if pl_module.device.index is not None else 1,
            precision=trainer.precision,
            fast_dev_run=trainer.fast_dev_run,  # type: ignore[attr-defined]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        first.fit(self.model, datamodule=self.data)
        part, weights = attrgetter(self.part)(pl_module), self.model.get_submodule(self.source).state_dict()
        wanted = part.state_dict()
        unfit = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
        if unfit:
            raise ValueError(
                f"the pretrained network lacks parameters of {self.part}, or their shapes differ: {', '.join(unfit)}"
            )
        part.load_state_dict({name: weights[name] for name in wanted})
