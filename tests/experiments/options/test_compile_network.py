import copy
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from experiments.options.compile_network import CompileNetwork
from lightning_modules.backbones.layer_features import logits_and_features
from lightning_modules.networks.mlp import MLP
from tests.trainers import quiet


class Learner(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.network(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Nothing(LightningModule):
    def training_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> None: ...


def batches() -> DataLoader[Any]:
    return DataLoader(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), batch_size=3)  # type: ignore[arg-type]


def test_a_compiled_network_learns_the_same_with_a_last_batch_of_another_size() -> None:
    plain = Learner(MLP(4, [3], 2))
    ours = copy.deepcopy(plain)
    keys = list(ours.state_dict())
    compiled_sizes: list[Any] = []

    def noting(graph: Any, inputs: Any) -> Any:
        compiled_sizes.append([tuple(each.shape) for each in inputs if isinstance(each, Tensor)])
        return graph

    torch._dynamo.reset()
    torch._dynamo.register_backend(noting, name="noting")
    quiet(max_epochs=2, callbacks=[CompileNetwork("noting")]).fit(ours, batches())
    quiet(max_epochs=2).fit(plain, batches())
    assert 1 <= len(compiled_sizes) <= 2  # three rows, and any number of rows
    assert list(ours.state_dict()) == keys
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_a_module_without_a_network_and_an_unknown_backend_are_refused() -> None:
    with pytest.raises(ValueError, match=r"compile needs a module with model\.network, and Nothing has none"):
        quiet(max_epochs=1, callbacks=[CompileNetwork("eager")]).fit(Nothing(), batches())
    with pytest.raises(ValueError, match=r"compile must be true, false or one of .*inductor.*, got 'inductr'"):
        quiet(max_epochs=1, callbacks=[CompileNetwork("inductr")]).fit(Learner(MLP(4, [3], 2)), batches())


def test_the_features_of_a_compiled_network_are_seen() -> None:
    network = MLP(4, [3], 2)
    image = torch.randn(5, 4)
    expected = logits_and_features(network, image)
    network.compile(backend="eager")
    network(image)
    torch.testing.assert_close(logits_and_features(network, image), expected)
