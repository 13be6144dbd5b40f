"""A first training stage within a run: pre-trains a network that the run's own module then tunes or keeps frozen."""

from operator import attrgetter

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer


class Pretraining(Callback):
    """Before training begins, trains another module on its own data and gives its weights to a part of the module.

    Meant for first stages of minutes, in one process. A long one is a run of its own, whose checkpoint
    `lightning_modules.networks.with_weights` reads. Its network is `model.network`, which must have all names of the
    part; names that the part lacks, such as the classifier of an encoder, are left behind. Several parts take a
    callback each. A resumed run has the weights in its checkpoint and does not train them again.

    Args:
        model: trained first.
        data: what it is trained on. Its `seed` becomes that of the run's data.
        max_epochs: of the first stage.
        part: what gets the weights, by its dotted name in the module.

    Raises:
        ValueError: if `max_epochs` is less than 1, there are several processes, or names or shapes do not fit.
    """

    def __init__(
        self, model: LightningModule, data: LightningDataModule, max_epochs: int, part: str = "encoder"
    ) -> None:
        if max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, got {max_epochs}")
        self.model = model
        self.data = data
        self.max_epochs = max_epochs
        self.part = part

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.world_size > 1:
            raise ValueError(
                f"Pretraining runs in one process, and the trainer has {trainer.world_size}: pre-train in a run of its "
                f"own, and read its checkpoint with lightning_modules.networks.with_weights"
            )
        for name, module in ((self.part, pl_module), ("network", self.model)):
            try:
                found = attrgetter(name)(module)
            except AttributeError:
                found = None
            if not isinstance(found, torch.nn.Module):
                raise TypeError(f"Pretraining needs a module with `{name}`, and {type(module).__name__} has none")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        self.data.seed = getattr(trainer.datamodule, "seed", 0)  # type: ignore[attr-defined]
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
        part: torch.nn.Module = attrgetter(self.part)(pl_module)
        weights: dict[str, torch.Tensor] = self.model.network.state_dict()  # type: ignore[union-attr]
        unfit = [
            name
            for name, value in part.state_dict().items()
            if name not in weights or weights[name].shape != value.shape
        ]
        if unfit:
            raise ValueError(
                f"the pre-trained network lacks what {self.part} has, or in another shape: {', '.join(unfit)}"
            )
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
