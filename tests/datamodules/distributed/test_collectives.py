"""After a step, BatchNorm's statistics are synchronised, so two processes evaluate images with the same network."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from datamodules.distributed import collectives
from datamodules.distributed.collectives import all_reduce_sum, broadcast, is_distributed, rank, world_size
from tests.conformance.runs import run, state, written
from tests.distributed.methods import LEFT_OUT
from tests.two_processes import in_two_processes


def what_it_says() -> dict[str, Any]:
    value = torch.tensor([1.0 + rank(), 2.0], requires_grad=True)
    total = all_reduce_sum(value)
    return {
        "distributed": is_distributed(), "rank": rank(), "world_size": world_size(), "value": value.tolist(),
        "total": total.tolist(), "gradient": total.requires_grad, "message": broadcast(("from", rank())),
    }  # fmt: skip


def process(number: int, directory: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=number, world_size=2)
    torch.save(what_it_says(), f"{directory}/{number}.pt")
    dist.destroy_process_group()


def test_without_a_process_group_there_is_one_process() -> None:
    assert what_it_says() == {
        "distributed": False, "rank": 0, "world_size": 1, "value": [1, 2], "total": [1, 2], "gradient": False,
        "message": ("from", 0),
    }  # fmt: skip


def test_two_processes_have_numbers_a_sum_and_one_message(tmp_path: Path) -> None:
    context = mp.start_processes(process, (str(tmp_path),), nprocs=2, join=False, start_method="fork")
    while not context.join(600):
        pass
    for number in range(2):
        assert torch.load(tmp_path / f"{number}.pt") == {
            "distributed": True, "rank": number, "world_size": 2, "value": [1 + number, 2], "total": [3, 4],
            "gradient": False, "message": ("from", 0),
        }  # fmt: skip


def test_a_transposed_tensor_is_summed_as_nccl_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[torch.Tensor] = []
    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives.dist, "all_reduce", reduced.append)
    value = torch.arange(6.0).view(2, 3).T
    assert all_reduce_sum(value) is reduced[0]
    assert reduced[0].is_contiguous()
    assert torch.equal(reduced[0], value)


class Compared(nn.BatchNorm2d):
    """Counts evaluations, and raises an error in evaluation mode if the processes' running statistics differ."""

    evaluated: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.register_buffer("evaluated", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and x.device.type != "meta":  # the shape check before training
            first = self.running_var.clone()  # type: ignore[union-attr]
            dist.broadcast(first, src=0)
            assert torch.equal(first, self.running_var), "each process judges by a network of its own"
            self.evaluated += 1
        return super().forward(x)


class Segmenter(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), Compared(4), nn.ReLU(), nn.Conv2d(4, num_classes, 1))


class Classifier(nn.Sequential):
    def __init__(self) -> None:
        features = [nn.Flatten(), nn.Linear(24, 10), nn.Unflatten(1, (10, 1, 1)), Compared(10), nn.ReLU()]
        super().__init__(*features, nn.Flatten(), nn.Linear(10, 6))


def segmenter(num_classes: int) -> dict[str, Any]:
    return {"class_path": f"{__name__}.Segmenter", "init_args": {"num_classes": num_classes}}


CLASSIFIER = {"class_path": f"{__name__}.Classifier"}
LSA = {"model.init_args.network": CLASSIFIER, "model.init_args.detection.feature_layer": "4"}
CHANGES: dict[str, dict[str, Any]] = {
    "adele": {"model.init_args.network": segmenter(3), "trainer.callbacks.1": LEFT_OUT, "trainer.max_epochs": 4},
    "annotation_efficient": {"model.init_args.network": segmenter(2), "trainer.callbacks": []},
    "lsa": LSA,
    "lsa_plus": {**LSA, "model.init_args.second_network": CLASSIFIER},
}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", CHANGES)
def test_training_images_are_judged_by_one_network(method: str, tmp_path: Path) -> None:
    without_validation = {"trainer.limit_val_batches": 0, "checkpoint": {"test_checkpoint": "last"}}
    settings = written(method, tmp_path, {**CHANGES[method], **without_validation, "trainer.precision": "64-true"})
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true")
    in_two_processes(run, "fit", "--config", settings, "--run_directory", tmp_path / "run", *two)
    evaluated = [value for name, value in state(tmp_path / "run")["state_dict"].items() if name.endswith("evaluated")]
    assert len(evaluated) == (2 if method == "lsa_plus" else 1)
    assert all(value > 0 for value in evaluated)
