"""Collect noise pairs before training or in `predict`. Collection can take days, and can use any number of ranks."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from datamodules.batches import PromptBatch
from datamodules.files.module_hash import hash_of_module
from datamodules.jobs.settings import reject_other_settings, stored_settings
from datamodules.jobs.stores import Files
from datamodules.prompts.noise_pair_files import caption_in, pair_file, write_pair, write_scores
from datamodules.prompts.noise_pairs import NoisePairs
from datamodules.randomness.generators import sample_like
from lightning_modules.diffusion.golden_noise.rewards import compute_rewards
from lightning_modules.sde.ddim import level
from lightning_modules.tasks.writers import FolderWriter
from lightning_modules.training.evaluation_mode import in_evaluation_mode
from lightning_modules.training.results_directory import results_directory

FOLDER, SETTINGS = "noise_pairs", "settings.json"
OF_PAIRS = ("network", "levels", "pair_guidance", "inversion_guidance")
"""Settings on which the improved noise of a pair depends; all other settings affect only the scores."""


class CollectsPairs(FolderWriter, ABC):
    """Mixin whose prediction steps write noise pairs to the folder `noise_pairs/` of the run directory.

    Each file `<index>_<seed>.npz` contains one pair. The file `scores.jsonl`, which is written at the end, contains the
    texts and scores of all pairs. The file `settings.json` contains all settings that affect the pairs. A resumed run
    is rejected if settings, models or rewards have changed, or if a pair with the same index has a different text.
    Existing pairs are not computed again, so an interrupted run can be resumed, on any number of ranks. A pair depends
    only on its text and its seed, apart from rounding errors, which depend on the batch and the precision.
    """

    written, settings_name, items = FOLDER, f"{FOLDER}/{SETTINGS}", "pairs of noise"
    rewards: nn.ModuleDict
    model: Any
    network: Any
    official_offset: bool
    times: Sequence[int]
    levels: Any

    @abstractmethod
    def better(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        """Compute the improved noise, `[B, c, h, w]`, for B texts."""

    @abstractmethod
    def images(self, noise: Tensor, texts: Sequence[str], generator: Any = None) -> Tensor:
        """Generate an image in [0, 1] from each initial noise."""

    def draw(self: Any, seeds: Tensor) -> Tensor:
        """Sample one noise tensor from each of B seeds, in the module's precision; the result is `[B, c, h, w]`."""
        return self._seed(seeds)[0]

    def generators(self: Any, seeds: Tensor) -> list[torch.Generator]:
        """Return one generator per seed, for stochastic samplers, in the state after `draw` has sampled with it."""
        return self._seed(seeds)[1]

    def _seed(self: Any, seeds: Tensor) -> tuple[Tensor, list[torch.Generator]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        like = torch.empty(len(generators), *self.network.latent_shape, dtype=self.dtype, device=self.device)
        return sample_like(like, torch.randn, generators), generators

    def result_settings(self: Any) -> dict[str, Any]:
        """Return the settings on which the pairs depend, as JSON values by name."""
        back = self.times[1:3] if self.official_offset else self.times[1::-1]
        passed = [self.times[0], *(level(self.levels, time) for time in (*self.times[:2], *back))]
        settings = {"network": hash_of_module(self.model.network), "levels": passed}
        named = (*OF_PAIRS[2:], "num_inference_steps", "guidance_scale")
        settings |= {key: getattr(self, key) for key in named} | {"sampler": type(self.model.scheduler).__name__}
        return settings | {f"reward {name}": hash_of_module(reward) for name, reward in self.rewards.items()}

    def store(self, folder: Path) -> Files:
        def write(path: Path, pair: tuple[Tensor, Tensor, list[float], list[float]], caption: str) -> None:
            source, target, before, after = pair
            write_pair(path, source, target, caption, before, after)

        return Files(folder, ".npz", write, caption_in)

    def collect(self: Any, batch: PromptBatch) -> list[int]:
        """Compute and write those pairs of a batch that are missing, and return their indices."""

        def compute(rows: list[int]) -> Iterator[tuple[Tensor, Tensor, list[float], list[float]]]:
            texts, noise = [batch["caption"][row] for row in rows], self.draw(batch["seed"][rows])
            target = self.better(noise, texts)
            before, after = (self._score_lists(each, texts, batch["seed"][rows]) for each in (noise, target))
            yield from zip(noise, target, before, after, strict=True)

        pairs = zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True)
        written = self.write([pair_file(Path(), *pair).stem for pair in pairs], batch["caption"], compute)
        return [int(name.partition("_")[0]) for name in written]

    def _score_lists(self: Any, noise: Tensor, texts: Sequence[str], seeds: Tensor) -> list[list[float]]:
        """Generate images from noise, and compute all of their rewards; without reward models, generate no images."""
        if not self.rewards:
            return [[] for _ in texts]
        images = self.images(noise, texts, self.generators(seeds))
        return torch.stack([*compute_rewards(self.rewards, images, texts).values()], dim=1).tolist()

    def collect_before_training(self: Any, data: NoisePairs, directory: Path) -> None:
        """Collect all pairs that are missing in a run directory, from which the DataModule then reads them."""
        short = self.trainer.fast_dev_run
        loader = data.prompt_loader()
        few = -(-2 * data.batch_size // data.evaluation_batch_size) if short else None
        with in_evaluation_mode(self.trainer, self), self.job_in(directory) as self._job:
            for batch in itertools.islice(loader, few):
                self.collect(cast(PromptBatch, self.trainer.strategy.batch_to_device(batch)))
            self._job.peers.on_first_rank(lambda: write_scores(directory / FOLDER))
        self._job = None
        data.read_pairs(directory / FOLDER, every=bool(short))

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[int]:
        return self.collect(batch)

    def on_predict_end(self: Any) -> None:
        if (job := self._job) is not None:
            job.peers.on_first_rank(lambda: write_scores(job.store.folder))
        super().on_predict_end()

    def read_or_collect(self: Any, data: NoisePairs) -> None:
        """Before training, check the settings of the pairs in `data_dir`; without `data_dir`, collect pairs."""
        if data.data_dir is None:
            with results_directory(self.trainer) as directory:
                self.collect_before_training(data, directory)
            return
        path = Path(data.data_dir).expanduser() / SETTINGS
        if (stored := stored_settings(path)) is not None:  # folders from the authors' scripts have no settings
            own = {key: value for key, value in self.result_settings().items() if key in OF_PAIRS}
            there = {key: stored.get(key, "not set") for key in OF_PAIRS}
            if there != own:
                reject_other_settings(
                    stored, stored | own, f"the data in {data.data_dir}", "train on pairs of this model"
                )
