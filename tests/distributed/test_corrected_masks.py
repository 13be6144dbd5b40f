"""Each process corrects the masks of its share; all processes and their loader workers get all corrected masks."""

import os
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.trainer.states import TrainerState, TrainerStatus

import datamodules.segmentation.labelled_masks
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.loading import Loading
from datamodules.loading.gathered_labels import gathered_labels
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.shapes import Shapes

PROCESSES = 2


def shapes() -> LabelledMasks:
    images = Shapes(num_train=12, image_size=16)
    return LabelledMasks(images, batch_size=5, mask_noise=ErosionDilation(), loading=Loading(seed=0))


def process_of(rank: int, directory: Path) -> Any:
    """Return an object that has the trainer attributes which a DataModule reads, as process `rank` sees them."""
    progress = types.SimpleNamespace(current=types.SimpleNamespace(ready=0))
    return types.SimpleNamespace(
        global_rank=rank,
        local_rank=rank,
        node_rank=0,
        world_size=PROCESSES,
        is_global_zero=rank == 0,
        log_dir=str(directory),
        loggers=["any"],
        current_epoch=0,
        num_devices=PROCESSES,
        num_training_batches=3,
        state=TrainerState(status=TrainerStatus.RUNNING),
        strategy=types.SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=types.SimpleNamespace(epoch_loop=types.SimpleNamespace(batch_progress=progress)),
    )


def correct(rank: int, directory: Path, in_a_file: bool) -> None:
    """Run one process: correct every third image of its share, and save what its loaders return afterwards."""
    dist.init_process_group("gloo", f"file://{directory / 'meeting'}", rank=rank, world_size=PROCESSES)
    if in_a_file:
        datamodules.segmentation.labelled_masks.LARGEST_IN_MEMORY = 0
    data = shapes()
    data.trainer = process_of(rank, directory)
    data.num_workers = 1
    data.setup("fit")
    training = data.train_dataloader()
    before = list(training)  # persistent worker
    shares = []
    for batch in data.training_images_dataloader():
        shares.append(len(batch["index"]))
        third = batch["index"] % 3 == 0
        data.correct_labels(batch["index"][third], batch["clean_label"][third].long())
    training.sampler.set_epoch(1)  # type: ignore[attr-defined]
    after = list(training)
    state = data.state_dict()
    if rank == 0:
        torch.save(state, directory / "state.pt")
    ragged = gathered_labels(torch.arange(rank), torch.full((rank, 2 + rank, 3), rank).byte(), torch.device("cpu"))
    torch.save((shares, before, after, "corrected_labels" in state, ragged), directory / f"{rank}.pt")
    dist.barrier()
    data.teardown("fit")
    dist.destroy_process_group()


@pytest.mark.parametrize("in_a_file", [False, True])
def test_corrections_reach_all_processes_and_their_workers(tmp_path: Path, in_a_file: bool) -> None:
    mp.start_processes(correct, (tmp_path, in_a_file), nprocs=PROCESSES, start_method="fork")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    data = shapes()
    data.setup("fit")
    assert data.train_set is not None
    source: Any = data.train_set.source
    expected = source.given.clone()
    expected[::3] = source.clean[::3]
    assert not torch.equal(expected, source.given)
    assert sum(found[0][0] + found[1][0]) == 12
    for _, *loaded, _, _ in found:
        for batches, masks in zip(loaded, (source.given, expected), strict=True):
            for batch in batches:
                assert torch.equal(batch["label"], masks[batch["index"]])
                assert torch.equal(batch["original_label"], source.given[batch["index"]])
    for epoch in (1, 2):
        seen = torch.cat([batch["index"] for process in found for batch in process[epoch]])
        assert len(seen.unique()) == len(seen) == 10  # the last two are dropped: one for each process
    assert [process[3] for process in found] == [True, False]  # one process saves
    index, masks = found[0][4]
    assert (index.tolist(), masks.tolist()) == ([0], [[[1] * 3] * 3])
    assert torch.equal(found[1][4][1], masks)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("corrected_masks")]


def test_one_process_goes_on_where_two_stopped(tmp_path: Path) -> None:
    mp.start_processes(correct, (tmp_path, True), nprocs=PROCESSES, start_method="fork")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["corrected_labels"]["index"].tolist() == [0, 3, 6, 9]
    data = shapes()
    data.load_state_dict(state)
    data.setup("fit")
    assert data.train_set is not None
    source: Any = data.train_set.source
    for batch in data.training_images_dataloader():
        third = batch["index"] % 3 == 0
        assert torch.equal(batch["label"][third], source.clean[batch["index"][third]])
        assert torch.equal(batch["label"][~third], source.given[batch["index"][~third]])
