from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.corruptions.clip_degradation.sharpening import unsharp_masked
from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.spynet import SPyNet, ZeroFlow
from lightning_modules.networks.unet_discriminator import UNetDiscriminator
from lightning_modules.restoration.negvsr import Negatives, NegVSR
from tests.trainers import quiet


def network(flow: nn.Module | None = None, channels: int = 1) -> RealBasicVSR:
    torch.manual_seed(0)
    return RealBasicVSR(flow or ZeroFlow(), channels, 4, 1, 1, 2)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class L2(nn.Module):
    def forward(self, image: Tensor, clean: Tensor) -> Tensor:
        return (image - clean).square().mean()


def module(**options: Any) -> NegVSR:
    options = {"optimizer": sgd, "discriminator_optimizer": sgd, **options}
    made = NegVSR(options.pop("network", None) or network(), **options)
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return made


def second_stage(**options: Any) -> NegVSR:
    torch.manual_seed(1)
    return module(discriminator=UNetDiscriminator(1, 4), perception=L2(), **options)


def batch(count: int = 2, side: int = 16, channels: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(1)
    shapes = {"noisy": side, "noise": side, "clean": 2 * side}
    clips = {
        key: torch.rand(count, 3, channels, size, size, generator=generator, dtype=dtype)
        for key, size in shapes.items()
    }
    return {**clips, "index": torch.arange(count), "global_batch_size": count}


@pytest.mark.parametrize("detached", [False, True])
def test_a_steps_loss_and_gradient_are_those_of_the_equations(detached: bool) -> None:
    trained, given = module(negatives=Negatives(weight=0.7, detach_positive=detached)).double(), batch()
    torch.manual_seed(3)
    loss = trained.training_step(given, 0)["loss"]
    torch.manual_seed(3)
    p = torch.randint(10, ()) / 10
    turned = torch.rand(2, 3, 4, 4) < p
    quarters = torch.randint(5, (2, 3, 4, 4)) * turned
    assert quarters.any()

    net, x = trained.network, given["noisy"]
    v = x + net.cleaning(x.flatten(0, 1)).view_as(x)
    mixed = (v + given["noise"]) / 2
    rows = []
    for b, t, r, s in torch.cartesian_prod(*map(torch.arange, (2, 3, 4, 4))).tolist():
        patch = mixed[b, t, :, 4 * r : 4 * r + 4, 4 * s : 4 * s + 4]
        rows.append(torch.rot90(patch, int(quarters[b, t, r, s]), (1, 2)))
    patches = torch.stack(rows).view(2, 3, 4, 4, 1, 4, 4)
    negative = net.upscale(patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(2, 3, 1, 16, 16))
    positive, target = net.upscale(v), unsharp_masked(given["clean"])
    small = F.avg_pool2d(target.flatten(0, 1), 2).view_as(v)
    aim = positive.detach() if detached else positive
    expected = (positive - target).abs().mean() + (v - small).abs().mean() + 0.7 * (negative - aim).abs().mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(net.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_negatives_the_noise_is_not_looked_at() -> None:
    trained, given = module(negatives=None, sharpened=False).double(), batch()
    without = {key: value for key, value in given.items() if key != "noise"}
    torch.testing.assert_close(trained.training_step(given, 0)["loss"], trained.training_step(without, 0)["loss"])
    assert trained.generator_terms(trained.restore_with_negatives(without)).keys() == {"pixel", "cleaning"}


def test_the_second_stage_moves_both_networks_by_their_own_terms() -> None:
    trained = second_stage(negatives=None).double()
    given, before = batch(), {name: value.clone() for name, value in trained.state_dict().items()}
    optimizers, schedulers = trained.configure_optimizers()
    trained.optimizers = lambda *args, **kwargs: optimizers  # type: ignore[method-assign]
    trained.lr_schedulers = lambda: [each["scheduler"] for each in schedulers]  # type: ignore[method-assign]
    trained.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    strategy = type("Strategy", (), {"optimizer_step": staticmethod(lambda optimizer, closure: optimizer.step())})
    trained.trainer = type("Trainer", (), {"strategy": strategy})  # type: ignore[assignment]
    trained.training_step(given, 0)
    after = dict(trained.named_parameters())

    other = second_stage(negatives=None).double()
    other.load_state_dict(before)
    net, judge, sharp = other.network, other.discriminator, unsharp_masked(given["clean"])
    assert judge is not None
    v = net.clean_frames(given["noisy"])
    y = net.upscale(v)
    score = judge(y.flatten(0, 1))
    generator = (y - sharp).abs().mean() + (v - F.avg_pool2d(sharp.flatten(0, 1), 2).view_as(v)).abs().mean()
    generator = generator + (y - sharp).square().mean() + 0.05 * F.softplus(-score).mean()
    moved = dict(zip(net.parameters(), torch.autograd.grad(generator, list(net.parameters())), strict=True))
    real, false = judge(given["clean"].flatten(0, 1)), judge(y.detach().flatten(0, 1))
    loss = F.softplus(-real).mean() + F.softplus(false).mean()
    moved |= dict(zip(judge.parameters(), torch.autograd.grad(loss, list(judge.parameters())), strict=True))
    for name, parameter in other.named_parameters():
        if not name.startswith("average"):
            torch.testing.assert_close(after[name], parameter - 0.1 * moved[parameter])


def test_two_optimizers_make_one_step_and_their_schedules_are_followed() -> None:
    halving = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
    trained = second_stage(lr_scheduler=halving)
    trainer = quiet(max_epochs=2)
    trainer.fit(trained, torch.utils.data.DataLoader([batch(dtype=torch.float32)] * 3, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == 6
    assert trained.average.updates == 6
    assert [each.param_groups[0]["lr"] for each in trainer.optimizers] == [0.1 / 4] * 2


def test_all_but_training_uses_the_averaged_weights() -> None:
    trained, given = module().double().eval(), batch()
    before = trained.restore(given["noisy"])
    with torch.no_grad():
        for parameter in trained.network.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(trained.restore(given["noisy"]), before)
    assert not torch.allclose(trained(given["noisy"]), before)
    trained.average.update(trained.network)
    assert not torch.allclose(trained.restore(given["noisy"]), before)


def test_training_leaves_the_flow_as_it_is() -> None:
    trained = module(network=network(SPyNet(None), 3))
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    loader = torch.utils.data.DataLoader([batch(1, 64, 3, torch.float32)], batch_size=None)  # type: ignore[arg-type]
    quiet(max_epochs=1).fit(trained, loader)
    moved = {name for name, value in trained.network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("flow.")}


def test_a_second_stage_starts_from_the_averaged_weights_of_a_first(tmp_path: Path) -> None:
    first = module(average_decay=0.5)
    trainer = quiet(max_epochs=1)
    trainer.fit(first, torch.utils.data.DataLoader([batch(dtype=torch.float32)] * 2, batch_size=None))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = module(network=network(), started_from=str(tmp_path / "first.ckpt"))
    second.setup("fit")
    for one, other, raw in zip(
        second.network.parameters(), first.average.weights, first.network.parameters(), strict=True
    ):
        torch.testing.assert_close(one.data, other.data, rtol=0, atol=0)
        assert not torch.equal(one, raw)
    torch.testing.assert_close(list(second.average.weights), list(first.average.weights))
