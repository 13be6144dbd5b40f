"""Rounds of the module compared with loops over nodes in double precision; rejections; tables."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.loading import Loading
from datamodules.loading.node_shards import NodeShards
from datamodules.randomness.generators import generator_of
from lightning_modules.networks.mlp import MLP
from lightning_modules.optim.schedules import HyperbolicOverSteps
from lightning_modules.optimization.monna import (
    ALittleIsEnough,
    Average,
    FallOfEmpires,
    GeometricMedian,
    LabelFlip,
    Mimic,
    MoNNA,
    NearestNeighborAveraging,
    SelfCenteredClipping,
    SignFlip,
    TrimmedMean,
)
from lightning_modules.optimization.monna.aggregation import Rule
from lightning_modules.optimization.monna.byzantine import ByzantineAttack, Round
from lightning_modules.optimization.monna.exchange import responders
from lightning_modules.optimization.monna.module import model_spread, node_losses
from tests.optimization.monna.test_aggregation import LOOPS
from tests.trainers import quiet, standing

HONEST, F_, RATE, BETA, NORM = 7, 2, 0.5, 0.9, 1e-2


def data(growing: bool = False) -> LabelledImages:
    shards = NodeShards(HONEST, 1.0, batches_per_epoch=4, growing=growing)
    return LabelledImages(
        Digits(300), 5 * HONEST, shards=shards, split=Split(validation_fraction=0.1), loading=Loading(seed=1)
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(64, [6], 10).double()


def halved(optimizer: Any) -> Any:
    return HyperbolicOverSteps(optimizer, half_life=3, every=2)


def module(attack: ByzantineAttack | None, rule: Rule, **more: Any) -> MoNNA:
    n, f = (HONEST + F_, F_) if attack else (HONEST, 0)
    options: dict[str, Any] = {"momentum": BETA, "norm_weight": NORM, **more}
    sgd: Any = lambda parameters: torch.optim.SGD(parameters, lr=RATE)  # noqa: E731
    return MoNNA(network(), 10, n, f, attack, rule=rule, optimizer=sgd, lr_scheduler=halved, **options)


def trained(module: MoNNA, epochs: int = 2, source: LightningDataModule | None = None) -> MoNNA:
    quiet(max_epochs=epochs, precision="64-true").fit(module, source or data())
    return module


def gradient(one: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    loss = F.cross_entropy(one(image), label) + NORM * nn.utils.parameters_to_vector(one.parameters()).norm()
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(one.parameters()))])


def by_loops(
    attack: ByzantineAttack | None, rule: Rule, beta: float, gradients: bool, growing: bool
) -> tuple[Tensor, Tensor]:
    """Run the algorithm node by node, with the same batches, attack vectors and drawn senders as the module."""
    source = data(growing)
    source.setup("fit")
    start = network()
    theta = [nn.utils.parameters_to_vector(start.parameters()).detach() for _ in range(HONEST)]
    m, f = [torch.zeros_like(theta[0]) for _ in range(HONEST)], F_ if attack else 0

    def mixed(sent: list[Tensor], number: int, kind: int, poisoned: Tensor | None) -> list[Tensor]:
        wrong = [attack(Round(torch.stack(sent), f, rule, number, poisoned))] * f if attack else []
        who = responders(HONEST, HONEST - f - 1, generator_of(0, number, kind)).tolist()
        heard = [[sent[j] for j in who[i]] + wrong for i in range(HONEST)]
        return [LOOPS[type(rule)](sent[i], heard[i], f) for i in range(HONEST)]

    for number in range(8):
        epoch, place = divmod(number, 4)
        loader = source.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batch = list(loader)[place]
        image, label = batch["image"].double().chunk(HONEST), batch["label"].chunk(HONEST)
        rate, g, flipped = RATE / (number // 2 * 2 / 3 + 1), [], []
        for i in range(HONEST):
            one = copy.deepcopy(start)
            nn.utils.vector_to_parameters(theta[i], one.parameters())
            g.append(gradient(one, image[i], label[i]))
            flipped.append(gradient(one, image[i], 9 - label[i]))
        mean_flipped = torch.stack(flipped).mean(dim=0)
        m = [beta * m[i] + (1 - beta) * g[i] for i in range(HONEST)]
        if gradients:
            m = mixed(m, number, 0, mean_flipped)
        theta = [theta[i] - rate * m[i] for i in range(HONEST)]
        theta = mixed(theta, number, 1, torch.stack(theta).mean(dim=0) - rate * mean_flipped)
        if attack and attack.learns(number):
            attack.learn(torch.stack(theta), number)
    return torch.stack(theta), torch.stack(m)


CASES: list[tuple[type[ByzantineAttack] | None, Rule, dict[str, Any]]] = [
    (ALittleIsEnough, NearestNeighborAveraging(), {}),
    (FallOfEmpires, NearestNeighborAveraging(), {}),
    (SignFlip, NearestNeighborAveraging(), {"momentum": 0.0}),
    (LabelFlip, NearestNeighborAveraging(), {}),
    (Mimic, NearestNeighborAveraging(), {}),
    (None, Average(), {}),
    (ALittleIsEnough, TrimmedMean(), {}),
    (FallOfEmpires, GeometricMedian(), {}),
    (LabelFlip, SelfCenteredClipping(2.0), {}),
    (LabelFlip, TrimmedMean(), {"momentum": 0.0, "exchange_gradients": True, "growing": True}),  # LEARN
]


def built(kind: type[ByzantineAttack] | None) -> ByzantineAttack | None:
    if kind is not Mimic:
        return kind() if kind else None
    torch.manual_seed(5)
    return Mimic(learning_rounds=5).double()


@pytest.mark.parametrize(("attack", "rule", "options"), CASES)
def test_rounds_are_the_algorithm_node_by_node(attack: Any, rule: Rule, options: dict[str, Any]) -> None:
    options, growing = dict(options), options.get("growing", False)
    options.pop("growing", None)
    theirs = built(attack)
    made = module(built(attack), rule, **options)
    if isinstance(theirs, Mimic):
        theirs.allocate(made.network.size)
        theirs.load_state_dict(made.attack.state_dict())  # type: ignore[union-attr]
        theirs.double()
    trained(made, source=data(growing))
    beta, gradients = options.get("momentum", BETA), options.get("exchange_gradients", False)
    theta, m = by_loops(theirs, rule, beta, gradients, growing)
    torch.testing.assert_close(made.network.weights.detach(), theta, rtol=0, atol=1e-10)
    torch.testing.assert_close(made.network.momentum, m, rtol=0, atol=1e-10)
    assert model_spread(theta) > 0


def test_momentum_of_a_constant_gradient() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10, dtype=torch.float64))

        def forward(self, image: Tensor) -> Tensor:
            return 1e-9 * self.weight.expand(len(image), -1)  # the probabilities stay equal

    made = MoNNA(Slope(), 10, 3, momentum=BETA, optimizer=torch.optim.SGD)
    images, labels = torch.zeros(36, 1, dtype=torch.float64), torch.zeros(36, dtype=torch.int64)
    quiet(max_epochs=1, precision="64-true").fit(made, DataLoader(TensorDataset(images, labels), batch_size=6))
    g = 1e-9 * (torch.full((10,), 0.1, dtype=torch.float64) - F.one_hot(torch.tensor(0), 10))
    torch.testing.assert_close(made.network.momentum, (1 - BETA**6) * g.expand(3, -1), rtol=1e-10, atol=0)


@pytest.mark.parametrize("growing", [False, True])
def test_gradients_of_all_honest_nodes_are_counted(growing: bool) -> None:
    """Each of 7 nodes uses 5 images in each of 8 rounds, or t + 1 in round t = 0, 1, ... if batches grow (LEARN)."""
    made = module(SignFlip(), NearestNeighborAveraging(), target_accuracy=0.0)
    trainer = quiet(max_epochs=2, precision="64-true")
    trainer.fit(made, source := data(growing))
    images = [t + 1 if growing else 5 for t in range(8)]
    [tested] = trainer.test(made, source, verbose=False)
    assert tested["test/gradients"] == HONEST * sum(images)
    assert tested["test/gradients_to_target"] == HONEST * sum(images[:4])  # the first validation follows four rounds
    checkpoint: dict[str, Any] = {}
    made.on_save_checkpoint(checkpoint)
    again = module(SignFlip(), NearestNeighborAveraging(), target_accuracy=1.0)
    again.on_load_checkpoint(checkpoint)
    assert again.counted == made.counted


def test_a_batch_that_nodes_cannot_share_is_named() -> None:
    images = TensorDataset(torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch size 8 is not divisible by the 7 nodes"):
        quiet(max_epochs=1).fit(MoNNA(**arguments()), DataLoader(images, batch_size=8))


def test_the_loss_adds_the_norm_and_not_its_square() -> None:
    logits, label = torch.randn(2, 3, 4, dtype=torch.float64), torch.randint(4, (2, 3))
    weights = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    losses = node_losses(logits, label, weights, 0.1)
    expected = torch.stack([F.cross_entropy(logits[i], label[i]) for i in range(2)])
    torch.testing.assert_close(losses, expected + torch.tensor([0.5, 0.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(losses.sum(), weights)
    torch.testing.assert_close(slope, torch.tensor([[0.06, 0.08], [0.0, 0.0]], dtype=torch.float64))


def test_all_honest_nodes_are_tested_and_their_worst_is_told() -> None:
    made = module(SignFlip(), NearestNeighborAveraging())
    trainer = quiet(max_epochs=2, precision="64-true")
    trainer.fit(made, source := data())
    curve = made.tables["accuracy"].columns
    assert curve["round"] == [4, 4, 8, 8]
    assert curve["honest nodes"] == ["mean", "worst"] * 2
    [tested] = trainer.test(made, source, verbose=False)
    of_node = made.tables["nodes"].columns["test accuracy"]
    images, label = source.test_set.source.image.double() / 16, source.test_set.source.label  # type: ignore[union-attr]
    for row, accuracy in zip(made.network.weights.detach(), of_node, strict=True):
        one = network()
        nn.utils.vector_to_parameters(row, one.parameters())
        assert accuracy == pytest.approx(float((one(images).argmax(dim=1) == label).double().mean()))
    assert tested["test/accuracy"] == pytest.approx(sum(of_node) / HONEST)
    assert tested["test/worst_accuracy"] == pytest.approx(min(of_node))
    assert tested["test/distance"] == pytest.approx(float(model_spread(made.network.weights.detach())))
    first = torch.cat([each["prediction"] for each in trainer.predict(made, source)])  # type: ignore[union-attr, arg-type]
    assert float((first == label).double().mean()) == pytest.approx(of_node[0])


def arguments(**more: Any) -> dict[str, Any]:
    return {"network": MLP(64, [6], 10), "num_classes": 10, "nodes": 9, "byzantine": 2, "attack": SignFlip(), **more}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"byzantine": 3}, "byzantine must be at most 2, the number that NearestNeighborAveraging tolerates among 9"),
        ({"byzantine": 3, "rule": TrimmedMean()}, "at most 2, the number that TrimmedMean tolerates"),
        ({"byzantine": 5, "rule": Average()}, "at most 4, the number that Average tolerates"),
        ({"attack": None}, "attack must be set if byzantine is above 0, and left out if it is 0, got byzantine 2"),
        ({"byzantine": 0}, "and left out if it is 0, got byzantine 0"),
    ],
)
def test_what_does_not_fit_is_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoNNA(**arguments(**more))


OTHERS = LabelledImages(Digits(300), 30, shards=NodeShards(6, 1.0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datamodule": LabelledImages(Digits(300), 30)}, "data.shards.nodes must be 7, .* got none"),
        ({"datamodule": OTHERS}, "data.shards.nodes must be 7, .* got 6"),
        ({"precision": "16-mixed"}, "trainer.precision 16-mixed scales the loss"),
        ({"world_size": 2}, "trainer.strategy must be .*Independent .* got SingleDeviceStrategy"),
    ],
)
def test_what_trainer_and_data_lack_is_named(options: dict[str, Any], message: str) -> None:
    made = MoNNA(**arguments())
    options = {"world_size": 1, "precision": "32-true", "strategy": quiet().strategy, **options}
    made.trainer = standing(**options)
    with pytest.raises(ValueError, match=message):
        made.setup("fit")
