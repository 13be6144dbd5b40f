"""Latent equations: the loss terms, the gradient, the information that predictions use, and figures."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.sequences.fractional_paths import FractionalBalls
from datamodules.sequences.sequences import Sequences
from lightning_modules.probabilistic.fractional_sde import (
    FractionalLatentSDE,
    FractionalNoise,
    FrameDecoder,
    FrameEncoder,
)
from lightning_modules.probabilistic.fractional_sde.integration import integrate, misfit
from tests.conformance.runs import CONFIGS, rows, run
from tests.trainers import quiet


def of_points(**changes: Any) -> FractionalLatentSDE:
    """Build a small module for points with two coordinates, in double precision; all networks have an effect."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"noise": FractionalNoise(gamma_max=4.0, num_processes=3, horizon=0.5), "num_given": 3}
    sizes: dict[str, Any] = {"num_latents": 2, "num_features": 3, "num_contents": 1, "hidden_features": [4]}
    module = FractionalLatentSDE(
        encoder=nn.Linear(2, 3), decoder=nn.Linear(3, 2), substeps=2, **{**settings, **sizes, **changes}
    ).double()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def points(count: int = 3) -> Any:
    generator = torch.Generator().manual_seed(1)
    observed = torch.randn(count, 6, 2, generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0.5, 1, 6, dtype=torch.float64)
    index = torch.arange(count)
    return {"observed": observed, "sigma": sigma, "interval": 0.1, "index": index, "global_batch_size": count}


def test_the_misfit_counts_what_was_observed_alone() -> None:
    given, observed = torch.tensor([[[1.0], [5.0], [2.0]]]), torch.zeros(1, 3, 1)
    sigma = torch.tensor([2.0, torch.inf, 0.5])
    assert misfit(given, observed, sigma).tolist() == [pytest.approx((1 / 4 + 4 / 0.25) / 2)]
    assert misfit(given, observed, None).tolist() == [1 + 25 + 4]


def test_the_terms_of_the_loss() -> None:
    module, batch = of_points(), points()
    torch.manual_seed(2)
    terms, given = module.reconstruct(batch)
    start, _ = module.infer(batch["observed"])
    mean, std = module.prior_mean, module.prior_log_std.exp()
    closed = (std / start.std).log() + (start.std**2 + (start.mean - mean) ** 2) / (2 * std**2) - 0.5
    torch.testing.assert_close(terms.kl_start, closed.sum(dim=1))
    torch.testing.assert_close(terms.nll, misfit(given, batch["observed"], batch["sigma"]))
    assert (terms.kl_path > 0).all()
    torch.manual_seed(2)
    loss = module.training_step(batch, 0)["loss"]
    torch.testing.assert_close(loss, (terms.nll + terms.kl_start + terms.kl_path).mean())


def test_a_control_is_told_what_lies_between_two_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = of_points(), points()
    asked: list[Tensor] = []
    monkeypatch.setattr(
        module.control, "forward", lambda told: asked.append(told) or torch.zeros(len(told), 2).double()
    )
    terms, _ = module.reconstruct(batch)
    context = module.infer(batch["observed"])[0].context
    assert len(asked) == 10
    assert not terms.kl_path.any()
    torch.testing.assert_close(asked[4][:, -3:], context[:, 2])
    torch.testing.assert_close(asked[5][:, -3:], (context[:, 2] + context[:, 3]) / 2)


@pytest.mark.parametrize("solver", ["milstein", "euler"])
def test_the_gradient_of_a_step_against_differences(solver: Any) -> None:
    module, batch = of_points(solver=solver), points()
    parameters = list(module.parameters())
    start = nn.utils.parameters_to_vector(parameters).detach()

    def loss(values: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(values, parameters)
        torch.manual_seed(3)
        return module.training_step(batch, 0)["loss"]

    loss(start).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in parameters)
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _ in range(5):
            way = torch.randn(len(start), generator=generator, dtype=torch.float64)
            difference = float(loss(start + 1e-6 * way) - loss(start - 1e-6 * way)) / 2e-6
            assert float(gradient @ way) == pytest.approx(difference, rel=1e-5)


def test_predictions_know_what_was_given_alone_and_end_without_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = of_points(), points()
    calls: list[tuple[int, bool]] = []
    states: list[Tensor] = []

    def noted(x: Tensor, y: Tensor, dw: Tensor, interval: float, substeps: int, *equation: Any) -> Any:
        calls.append((len(dw), equation[4] is None))
        path = integrate(x, y, dw, interval, substeps, *equation)
        states.extend([x, y, path.x[:, -1], path.y])
        return path

    monkeypatch.setattr("lightning_modules.probabilistic.fractional_sde.module.integrate", noted)
    torch.manual_seed(5)
    first = module.predict_course(batch)
    assert calls == [(4, False), (6, True)]  # two intervals of the posterior, three of the prior
    assert torch.equal(states[2], states[4])  # the prior continues from this state
    assert torch.equal(states[3], states[5])
    assert first.shape == batch["observed"].shape
    batch["observed"][:, 3:] += 100
    torch.manual_seed(5)
    assert torch.equal(module.predict_course(batch), first)
    batch["observed"][:, 2] += 1
    torch.manual_seed(5)
    assert not torch.equal(module.predict_course(batch), first)


def test_videos_are_measured_and_shown() -> None:
    noise = FractionalNoise(0.7, gamma_max=4.0, horizon=0.5)
    networks: Any = (FrameEncoder(1, [8, 8], 16, 8), FrameDecoder(6, 1, [8, 8], 16))
    module = FractionalLatentSDE(noise, *networks, 2, num_features=8, num_contents=4, hidden_features=[4], num_given=3)
    balls = FractionalBalls(0.7, radius=0.3, image_size=16, num_times=5, num_test=7, interval=0.1)
    trainer = quiet()
    trainer.test(module, Sequences(balls, 4), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["test/elbo"] == pytest.approx(-sum(found[f"test/{name}"] for name in ("nll", "kl_start", "kl_path")))
    assert found["test/kl_path"] == 0  # a control is zero at first
    assert 0 < found["test/psnr"] < 40
    batch: Any = {
        "observed": torch.rand(3, 5, 1, 16, 16),
        "interval": 0.1,
        "index": torch.arange(3),
        "global_batch_size": 3,
    }
    outputs = module.test_step(batch, 0)
    columns = module.image_columns(batch, outputs)
    assert list(columns) == ["0, given", "1, given", "2, given", "3, predicted", "4, predicted"]
    strip = columns["4, predicted"].values
    assert strip.shape == (3, 1, 3 * 16 + 2 * 2, 16)
    assert torch.equal(strip[:, :, :16], batch["observed"][:, 4])
    assert torch.equal(strip[:, :, -16:], outputs["predicted"][:, 4])


@pytest.mark.data
def test_the_papers_videos_train_and_are_predicted(tmp_path: Path) -> None:
    config, data = CONFIGS / "fractional_sde" / "moving_mnist.yaml", os.environ["NOISEWORKS_DATA"]
    short = ("--data.batch_size", "2", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")
    command = ("--data.sequences.images.data_dir", data, *short, "--trainer.limit_test_batches", "1")
    run("fit", "--config", config, *command, "--test_after_fit", "true", "--run_directory", tmp_path)
    found = {row["metric"]: row["value"] for row in rows(tmp_path / "test_metrics.csv")}
    assert found["test/hurst"] != 0.5
    assert found["test/psnr"] > 3
    assert (tmp_path / "figures" / "predictions.png").is_file()
