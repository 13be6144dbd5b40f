from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from datamodules.loading.own_loaders import OwnTrainingSet, as_batch, gives_positions, with_positions

NUM_SAMPLES = 23
IMAGE = torch.arange(NUM_SAMPLES).float()[:, None, None, None]  # the image encodes its position
PAIRS = TensorDataset(IMAGE, torch.arange(NUM_SAMPLES) % 5)


class Dicts(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {"image": IMAGE[position], "label": position % 5, "file": f"{position}.png"}


class Numbered(Dicts):
    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**super().__getitem__(position), "index": 100 + position}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(Dicts())


def stacked(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """A user's collate_fn that supports only pairs."""
    return torch.stack([image for image, _ in samples]), torch.stack([label for _, label in samples])


LOADERS = {
    "pairs": DataLoader(PAIRS, 4, shuffle=True),
    "dicts": DataLoader(Dicts(), 4, shuffle=True),
    "own collate": DataLoader(PAIRS, 4, shuffle=True, collate_fn=stacked),
    "workers": DataLoader(PAIRS, 4, shuffle=True, num_workers=1),
    "own sampler": DataLoader(PAIRS, 4, sampler=RandomSampler(PAIRS, num_samples=11)),
    "own batches": DataLoader(Dicts(), batch_sampler=BatchSampler(RandomSampler(PAIRS), 4, drop_last=True)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_each_sample_has_its_position_in_whatever_order(name: str) -> None:
    loader = LOADERS[name]
    own = loader.dataset
    batches = list(with_positions(loader))
    assert loader.dataset is own
    assert len(batches) == len(loader)
    for batch in batches:
        assert batch["index"].dtype == torch.int64
        assert batch["index"].tolist() == batch["image"].flatten().tolist()
        assert batch["label"].tolist() == (batch["index"] % 5).tolist()


def test_the_order_is_the_loaders_own() -> None:
    loaders = [DataLoader(PAIRS, 4, shuffle=True, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    own, numbered = [image for image, _ in loaders[0]], [batch["image"] for batch in with_positions(loaders[1])]
    assert torch.equal(torch.cat(own), torch.cat(numbered))


def test_positions_that_a_set_gives_itself_are_kept() -> None:
    for batch in with_positions(DataLoader(Numbered(), 4, shuffle=True)):
        assert batch["index"].tolist() == (100 + batch["image"].flatten()).tolist()


def test_several_passes_are_several_orders_of_the_whole_set() -> None:
    batches = list(with_positions(DataLoader(PAIRS, 4, shuffle=True), passes=2))
    index = torch.cat([batch["index"] for batch in batches])
    first, second = index.split(NUM_SAMPLES)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(NUM_SAMPLES))
    assert first.tolist() != second.tolist()


def test_the_training_set_in_its_own_order() -> None:
    own = OwnTrainingSet(DataLoader(PAIRS, 4, shuffle=True))
    assert own.num_train_samples == NUM_SAMPLES
    batches = list(own.training_images_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(NUM_SAMPLES))
    assert [batch["global_batch_size"] for batch in batches] == [len(batch["label"]) for batch in batches]


def test_batches_of_many_kinds_are_dicts() -> None:
    image, label = torch.zeros(2, 1, 4, 4), torch.zeros(2)
    assert set(as_batch(image)) == {"image"}
    assert set(as_batch([image])) == {"image"}
    assert set(as_batch((image, label))) == {"image", "label"}
    own = {"image": image, "more": 3}
    assert as_batch(own) is own


def test_a_datamodule_of_the_users_own_gives_no_positions() -> None:
    assert not gives_positions(LightningDataModule())
    assert not gives_positions(None)
    data = LightningDataModule()
    data.num_train_samples = 3  # type: ignore[attr-defined]
    assert gives_positions(data)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: OwnTrainingSet(DataLoader(Stream(), 4)).num_train_samples, "but Stream has no positions to identify"),
        (lambda: with_positions(DataLoader(Stream(), 4), passes=2), "an epoch needs 2 passes over the training set"),
        (
            lambda: next(iter(with_positions(DataLoader(PAIRS, 4, collate_fn=lambda pairs: pairs[0])))),
            "the loader's collate_fn returns 1 images for 4 samples",
        ),
    ],
)
def test_what_cannot_be_known_is_refused_in_a_sentence(act: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        act()
