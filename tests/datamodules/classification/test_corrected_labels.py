from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.corruptions.label_noise import Symmetric
from tests.datamodules.classification.patterns import NUM_CLASSES, labels, patterns, ready
from tests.datamodules.recorder import in_order, joined, trained


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrections_reach_the_batches_and_the_checkpoint(num_workers: int) -> None:
    data = ready(patterns(num_workers=num_workers, label_noise=Symmetric(0.5), seed=3))
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    before = in_order(list(loader), "label")
    assert torch.equal(before, labels(data))
    changed = torch.tensor([3, 11, 39])
    data.correct_labels(changed, (before[changed] + 1) % NUM_CLASSES)
    sampler.set_epoch(1)  # persistent workers
    batches = list(loader)
    after, clean = in_order(batches, "label"), in_order(batches, "clean_label")
    assert (before != after).nonzero().flatten().tolist() == changed.tolist()
    truth = data.images.training().label
    assert torch.equal(clean, truth)
    assert torch.equal(data.train_set.clean_label, truth)
    assert torch.equal(data.train_set.source.label, truth)


def all_zero(module: Any, data: Any) -> None:
    """Set the label of every training image to 0 after the first epoch."""
    if module.current_epoch == 0:
        data.correct_labels(torch.arange(40), torch.zeros(40, dtype=torch.int64))


@pytest.mark.parametrize("set_up_first", [True, False])
def test_corrections_are_restored_before_or_after_the_data_are_read(tmp_path: Path, set_up_first: bool) -> None:
    data = patterns(seed=3)
    module = trained(data, tmp_path, all_zero, epochs=2)
    assert joined(module.trained[:5], "label").sum() > 0
    assert joined(module.trained[5:], "label").sum() == 0
    state = data.state_dict()
    restored = patterns(seed=3)
    if set_up_first:
        restored.setup("fit")
    restored.load_state_dict(state)
    assert labels(ready(restored)).sum() == 0
    labels(data).fill_(1)
    assert state["corrected_labels"].sum() == 0  # the checkpoint holds a copy


@pytest.mark.parametrize("second_view", [False, True])
def test_corrected_batches_carry_the_labels_that_were_given(second_view: bool) -> None:
    data = ready(patterns(label_noise=Symmetric(0.5), second_view=second_view, seed=3))
    given = labels(data).clone()
    assert all("original_label" not in batch for batch in data.train_dataloader())
    data.correct_labels(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert all("original_label" not in batch for batch in data.train_dataloader())
    data.correct_labels(torch.tensor([3]), (given[[3]] + 1) % NUM_CLASSES)
    restored = patterns(label_noise=Symmetric(0.5), second_view=second_view, seed=3)
    restored.load_state_dict({"epoch": 0, "batches": 0, "corrected_labels": labels(data).clone()})
    for each in (data, ready(restored)):
        for loader in (each.train_dataloader(), each.training_images_dataloader()):
            batches = list(loader)
            index = joined(batches, "index")
            assert torch.equal(joined(batches, "original_label"), given[index])
            assert index[joined(batches, "label") != given[index]].tolist() == [3]
    with pytest.raises(ValueError, match=r"label must be in 0...3, got 0...4"):
        data.correct_labels(torch.tensor([0, 1]), torch.tensor([0, 4]))


def corrected_by_each(module: Any, data: Any) -> None:
    """Correct labels of this process after the first epoch; after the next epoch, save the samples that it used."""
    if module.current_epoch == 0:
        module.trained.clear()
        index = torch.arange(7) if module.global_rank == 0 else torch.tensor([20, 30])
        for share in (index, index[: module.global_rank]):  # the first process corrects no samples in the second call
            data.correct_labels(share, torch.full_like(share, 2 + module.global_rank))
    else:
        kept = {key: joined(module.trained, key) for key in ("index", "label", "original_label")}
        torch.save(kept, Path(module.trainer.log_dir, f"trained_{module.global_rank}.pt"))


def test_two_processes_exchange_their_corrections(tmp_path: Path) -> None:
    data = patterns(label_noise=Symmetric(0.5), seed=3)
    given = labels(ready(patterns(label_noise=Symmetric(0.5), seed=3)))
    expected = given.clone()
    expected[:7], expected[[20, 30]] = 2, 3
    trained(data, tmp_path, corrected_by_each, epochs=2, devices=2, strategy="ddp_fork")
    parts = [torch.load(tmp_path / f"trained_{rank}.pt") for rank in range(2)]
    assert sorted(joined(parts, "index").tolist()) == list(range(40))
    assert all((part["label"] != part["original_label"]).any() for part in parts)
    for part in parts:
        assert torch.equal(part["label"], expected[part["index"]])
        assert torch.equal(part["original_label"], given[part["index"]])
