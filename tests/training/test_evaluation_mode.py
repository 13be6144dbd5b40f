from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_modules.training.evaluation_mode import compute_in_batches, in_evaluation_mode
from tests.trainers import quiet


class Watched(LightningModule):
    """Records the input and output of each call, and the modes of the modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[dict[str, Any]] = []

    def forward(self, image: Tensor) -> Tensor:
        modes = {module.training for module in self.modules()}
        output = self.network(image)
        self.calls.append({"image": image, "output": output, "modes": modes, "gradient": torch.is_grad_enabled()})
        return output


@pytest.mark.parametrize(
    ("precision", "given", "computed"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
        ("64-true", torch.float64, torch.float64),
    ],
)
def test_it_is_the_trainers_precision_without_gradients(
    precision: Any, given: torch.dtype, computed: torch.dtype
) -> None:
    trainer = quiet(precision=precision)
    module = trainer.precision_plugin.convert_module(Watched(nn.Linear(3, 2)))
    with in_evaluation_mode(trainer, module) as network:  # type: ignore[arg-type]
        network(torch.rand(4, 3))
    (call,) = module.calls
    assert (call["image"].dtype, call["output"].dtype) == (given, computed)
    assert call["modes"] == {False}
    assert not call["gradient"]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_each_submodule_is_in_its_own_mode_again() -> None:
    module = Watched(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    module.network[1].eval()  # type: ignore[index]
    before = [part.training for part in module.modules()]
    assert set(before) == {True, False}

    def interrupted() -> None:
        with in_evaluation_mode(quiet(), module) as network:
            assert not any(part.training for part in module.modules())
            network(torch.rand(4, 3))
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        interrupted()
    assert [part.training for part in module.modules()] == before


def test_batches_give_what_one_call_gives() -> None:
    first, second = torch.rand(2, 7, 3)
    sizes: list[int] = []

    def product(one: Tensor, other: Tensor) -> Tensor:
        sizes.append(len(one))
        return one * other

    assert torch.equal(compute_in_batches(product, 3, first, second), first * second)
    assert sizes == [3, 3, 1]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        compute_in_batches(product, 0, first, second)
