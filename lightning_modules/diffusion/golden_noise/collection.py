"""Collection of pairs of noise: by `predict`, for days and on any number of processes, or before training."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.batches import PromptBatch
from datamodules.files.module_hash import hash_of_module
from datamodules.prompts.noise_pair_files import caption_in, pair_file, write_pair, write_scores
from datamodules.prompts.noise_pairs import NoisePairs
from datamodules.randomness.generators import sample_like
from lightning_modules.diffusion.golden_noise.rewards import scored
from lightning_modules.resumable.item_files import missing_items
from lightning_modules.resumable.other_processes import in_first_process
from lightning_modules.resumable.results_directory import results_directory
from lightning_modules.resumable.settings_file import refuse_other_settings, stored_settings, write_settings
from lightning_modules.sde.ddim import level
from lightning_modules.training.evaluation_mode import in_evaluation_mode

FOLDER, SETTINGS = "noise_pairs", "settings.json"
OF_PAIRS = ("network", "levels", "pair_guidance", "inversion_guidance")
"""Settings that make another target of the same noise; the others make other scores."""


class CollectsPairs(ABC):
    """Gives a LightningModule its prediction steps, which write `noise_pairs/` into the run directory.

    `<index>_<seed>.npz` is a pair, `scores.jsonl` holds texts and scores of all, written at the end, and
    `settings.json` what they depend on: other settings, models or rewards are refused, and so is another text of the
    same index. Pairs that are there are left alone, so an interrupted run continues, on any number of processes. A
    pair depends on its text and its seed alone, up to rounding, which differs with batch and precision.
    """

    rewards: nn.ModuleDict
    model: Any
    network: Any
    official_offset: bool
    times: Sequence[int]
    levels: Any

    @abstractmethod
    def better(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Compute the better noise, `[B, c, h, w]`, for B texts."""

    @abstractmethod
    def images(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Make an image in [0, 1] of each noise."""

    def drawn(self: Any, seeds: Tensor) -> Tensor:
        """Draw noise from each of B seeds, in the module's precision, `[B, c, h, w]`."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        shape = (len(generators), *self.network.latent_shape)
        return sample_like(torch.empty(shape, dtype=self.dtype, device=self.device), torch.randn, generators)

    def pair_settings(self: Any) -> dict[str, Any]:
        """List what pairs depend on, as JSON values."""
        back = self.times[1:3] if self.official_offset else self.times[1::-1]
        passed = [self.times[0], *(level(self.levels, time) for time in (*self.times[:2], *back))]
        settings = {"network": hash_of_module(self.model.network), "levels": passed}
        named = (*OF_PAIRS[2:], "num_inference_steps", "guidance_scale")
        settings |= {key: getattr(self, key) for key in named} | {"sampler": type(self.model.scheduler).__name__}
        return settings | {f"reward {name}": hash_of_module(reward) for name, reward in self.rewards.items()}

    def begin_collection(self: Any, folder: Path) -> None:
        """Write the settings, or compare them with those of the pairs that are there; all processes call it."""
        settings, path = self.pair_settings(), folder / SETTINGS

        def write() -> None:
            if not path.is_file():
                write_settings(path, settings)

        in_first_process(self.trainer, write)
        refuse_other_settings(path, settings, f"what {folder} holds", "collect into another run directory")

    def collect(self: Any, batch: PromptBatch, folder: Path | None) -> list[int]:
        """Write the pairs of a batch that are not there yet, and return their indices; without a folder, write none."""
        chosen = list(zip(batch["index"].tolist(), batch["seed"].tolist(), batch["caption"], strict=True))
        files = [pair_file(folder or Path(), index, seed) for index, seed, _ in chosen]
        rows = list(range(len(files)))
        if folder is not None:
            rows = missing_items(files, batch["caption"], caption_in)
        if not rows:
            return []
        texts, noise = [batch["caption"][row] for row in rows], self.drawn(batch["seed"][rows])
        target = self.better(noise, texts)
        before, after = (self._score_lists(each, texts) for each in (noise, target))
        for place, row in enumerate(rows):
            if folder is not None:
                write_pair(files[row], noise[place], target[place], texts[place], before[place], after[place])
        return [chosen[row][0] for row in rows]

    def _score_lists(self: Any, noise: Tensor, texts: Sequence[str]) -> list[list[float]]:
        """Compute all scores of each noise's image; without rewards no image is made."""
        if not self.rewards:
            return [[] for _ in texts]
        return torch.stack([*scored(self.rewards, self.images(noise, texts), texts).values()], dim=1).tolist()

    def collect_before_training(self: Any, data: NoisePairs, folder: Path) -> None:
        """Collect the pairs of all prompts that are not in a folder yet, and let the data read them."""
        short = self.trainer.fast_dev_run
        loader = data.prompt_loader()
        few = -(-2 * data.batch_size // data.evaluation_batch_size) if short else None
        self.begin_collection(folder)
        with in_evaluation_mode(self.trainer, self):
            for batch in itertools.islice(loader, few):
                self.collect(cast(PromptBatch, self.trainer.strategy.batch_to_device(batch)), folder)
        self.trainer.strategy.barrier("all pairs are written")
        in_first_process(self.trainer, lambda: write_scores(folder))
        data.read_pairs(folder, every=bool(short))

    def on_predict_start(self: Any) -> None:
        directory = self.trainer.log_dir  # broadcast: every process asks
        self._folder = None if directory is None or self.trainer.fast_dev_run else Path(directory, FOLDER)
        if self._folder is not None:
            self.begin_collection(self._folder)

    def predict_step(self: Any, batch: PromptBatch, batch_idx: int) -> list[int]:
        return self.collect(batch, self._folder)

    def on_predict_end(self: Any) -> None:
        if self._folder is None:
            return
        self.trainer.strategy.barrier("all pairs are written")
        if self.trainer.is_global_zero:  # the others wait for nothing: there may be a hundred thousand pairs
            write_scores(self._folder)
        rank_zero_info(f"Pairs of noise are in {self._folder}")

    def read_or_collect(self: Any, data: NoisePairs) -> None:
        """Before training, compare the settings of pairs that are there, or collect those that are missing."""
        if data.data_dir is None:
            with results_directory(self.trainer) as directory:
                self.collect_before_training(data, directory / FOLDER)
            return
        path = Path(data.data_dir).expanduser() / SETTINGS
        if (stored := stored_settings(path)) is not None:  # pairs of the authors' scripts have none
            own = {key: value for key, value in self.pair_settings().items() if key in OF_PAIRS}
            there = {key: stored.get(key, "not set") for key in OF_PAIRS}
            if there != own:
                refuse_other_settings(path, stored | own, f"what {data.data_dir} holds", "train on pairs of this model")
