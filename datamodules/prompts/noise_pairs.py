"""DataModule for noise pairs, and for the prompts for which noise pairs are collected."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.arguments import at_least, within
from datamodules.files.data_directory import data_directory
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.prompts.noise_pair_files import SCORES, StoredPair, kept_pairs, read_pair
from datamodules.prompts.prompt_sets import PromptRows, PromptSet

IN_MEMORY = 2**30
"""Largest total size in bytes at which all pairs are kept in memory."""


class PairRows:
    """Dataset of noise pairs, indexed by a `Request` (batches: `datamodules.batches.NoisePairBatch`)."""

    def __init__(self, pairs: list[StoredPair]) -> None:
        self.pairs = pairs
        source, _ = read_pair(pairs[0].path)
        self.latent_shape = source.shape
        self.in_memory = 2 * source.nbytes * len(pairs) <= IN_MEMORY
        self._held = self._read(range(len(pairs))) if self.in_memory else None

    def _read(self, rows: Any) -> Tensor:
        """Read several pairs, `[n, 2, c, h, w]`."""
        found = []
        for row in rows:
            source, target = read_pair(self.pairs[row].path)
            if source.shape != self.latent_shape:
                raise ValueError(
                    f"{self.pairs[row].path} has noise {list(source.shape)}, but {self.pairs[0].path} has "
                    f"{list(self.latent_shape)}: all pairs must come from one model and have one size"
                )
            found.append(np.stack([source, target]))
        return torch.from_numpy(np.stack(found))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        index = request.indices
        both = self._read(index.tolist()) if self._held is None else self._held[index]
        return {
            "source": both[:, 0],
            "target": both[:, 1],
            "caption": [self.pairs[row].caption for row in index.tolist()],
            "index": index,
            "global_batch_size": request.global_batch_size,
        }


class NoisePairs(SeededBatches):
    """DataModule with noise pairs for training, prompts for which `predict` collects pairs, and prompts for testing.

    Args:
        data_dir: folder of collected pairs. It is the folder `noise_pairs` in the run directory of `predict`, or the
            output of the authors' scripts. If None, the method collects pairs for `prompts` before training.
        scores: JSON-lines file with the captions and scores of the pairs. None means scores.jsonl in `data_dir`.
        prompts: prompts for which noise pairs are collected.
        test_prompts: prompts for which images are generated in testing.
        margin: gain in score that training pairs must exceed. None keeps all pairs.
        validation_fraction: fraction of the pairs that are held out of training, in [0, 1).
        batch_size: number of pairs in a training batch, over all ranks.
        loading: how batches are read, and the seed.
    """

    train_set: PairRows | None
    validation_set: PairRows | None

    def __init__(
        self,
        data_dir: str | None = None,
        scores: str | None = None,
        prompts: PromptSet | None = None,
        test_prompts: PromptSet | None = None,
        margin: float | None = 0.0,
        validation_fraction: float = 0.1,
        batch_size: int = 64,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        at_least(0, margin=margin)
        within(0, 1, "[)", validation_fraction=validation_fraction)
        self.data_dir = data_dir
        self.scores = scores
        self.prompts = prompts
        self.test_prompts = test_prompts
        self.margin = margin
        self.validation_fraction = validation_fraction

    def set_up_training(self) -> None:
        if self.data_dir is not None:
            self.read_pairs(data_directory(self.data_dir, "NoisePairs"), self.scores)
        elif self.prompts is None:
            raise ValueError(
                "training needs pairs: set data.data_dir to a folder of pairs, or data.prompts to collect pairs"
            )

    def read_pairs(self, folder: Path, scores: str | None = None, every: bool = False) -> None:
        """Read the pairs in a folder, and hold out a part of them for validation.

        Args:
            folder: folder of the pairs.
            scores: JSON-lines file with the scores. None means scores.jsonl in the folder.
            every: whether to include pairs whose score did not improve.
        """
        listed = folder / SCORES if scores is None else Path(scores).expanduser()
        pairs = kept_pairs(folder, listed, None if every else self.margin)
        order = np.random.default_rng([self.seed, 1]).permutation(len(pairs))
        held_out = round(self.validation_fraction * len(pairs))
        parts = [[pairs[row] for row in sorted(rows)] for rows in (order[held_out:], order[:held_out])]
        if not parts[0]:
            fraction = self.validation_fraction
            raise ValueError(f"validation_fraction {fraction} leaves none of {len(pairs)} pairs for training")
        self.train_set, self.validation_set = (PairRows(part) if part else None for part in parts)

    def prompt_loader(self) -> DataLoader:
        """Return a DataLoader of the prompts for which noise pairs are collected, sharded over ranks."""
        if self.prompts is None:
            raise ValueError("pairs are collected for the prompts of data.prompts: set it, for example to a PromptFile")
        return self.evaluation_loader(PromptRows(self.prompts.prompts()))

    def set_up_prediction(self) -> None:
        """Do nothing, because the prompts are read when their DataLoader is built."""

    def predict_dataloader(self) -> DataLoader:
        return self.prompt_loader()

    def set_up_test(self) -> None:
        if self.test_prompts is None:
            raise ValueError("test generates images for data.test_prompts: set it, for example to a PromptFile")
        self.test_set = PromptRows(self.test_prompts.prompts())

    def finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        for key in {"source", "target"} & batch.keys():
            batch[key] = batch[key].to(self.module_dtype)
        return batch
