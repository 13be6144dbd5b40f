"""Checks of the adapter settings in checkpoints of fine-tuned diffusion models."""

from typing import Any

from lightning_modules.backbones.adapters import ADAPTERS, TEXT, adapter_settings, check_adapters, text_settings
from lightning_modules.diffusion.finetuning.sharding import refuse_to_go_on


class ChecksCheckpoints:
    """Mixin for LightningModules: it saves adapter settings in checkpoints, and checks them when one is loaded.

    The LightningModule must define `network` and `average`.
    """

    def on_save_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[ADAPTERS] = adapter_settings(self.network.network)
        checkpoint[TEXT] = text_settings(self.network)

    def on_load_checkpoint(self: Any, checkpoint: dict[str, Any]) -> None:
        refuse_to_go_on(self._shared_out, self.trainer.state.fn)
        check_adapters(self.network.network, checkpoint)
        own, saved = text_settings(self.network), checkpoint.get(TEXT)
        if own != saved:
            raise ValueError(f"text_adapters must be {saved}, as in the checkpoint, got {own}")
        self.average.complete(checkpoint["state_dict"], "average.", "network.")
