"""Latent stochastic differential equations for paths and videos; the method is described in `__init__.py`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from datamodules.arguments import at_least, one_of
from datamodules.batches import SequenceBatch
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.interfaces import ImageColumn, TimedSequences, data_with
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.metrics.image_quality import psnr
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.probabilistic.fractional_sde.integration import (
    SOLVERS,
    Control,
    SolutionPath,
    Solver,
    check_run,
    check_step,
    increments,
    integrate,
    misfit,
)
from lightning_modules.probabilistic.fractional_sde.layers import DiagonalDiffusion, tanh_layers
from lightning_modules.probabilistic.fractional_sde.networks import Content, Inference, Inferred
from lightning_modules.probabilistic.fractional_sde.noise import Noise
from lightning_modules.training.logging import log_same, log_training

LEAST_GIVEN = 3
"""Number of observations that are needed to infer the start of a path."""
SHOWN = 9
"""Maximum number of frames of each video that are shown in image grids."""
BETWEEN = 2
"""Number of white pixel rows between the true, the reconstructed and the predicted frame."""


class Terms(NamedTuple):
    """Terms of the loss, one value per sequence, `[B]`."""

    nll: Tensor
    kl_start: Tensor
    kl_path: Tensor


class FractionalLatentSDE(MethodModule):
    """Learn a latent stochastic differential equation whose decoded paths are sequences.

    The elements of a sequence are the points of a path or the frames of a video. The features of all observations
    determine the distribution of X(0) and the control. The median of the features determines the time-invariant
    content. `test` logs `test/elbo`, which is minus the loss, and the terms of the loss; all are means over sequences.
    For videos, `test` also logs two PSNRs: `test/reconstruction_psnr` is computed for all reconstructed frames, and
    `test/psnr` for the predicted frames. The first `num_given` frames are given, and all later frames are predicted
    from them. For a prediction, the path follows the posterior up to the last given frame, and the prior afterwards.

    Args:
        noise: noise that drives the equation, `FractionalNoise` or `BrownianNoise`.
        encoder: maps observations `[N, ...]` to features `[N, num_features]`.
        decoder: maps the concatenation of content and X, `[N, num_contents + num_latents]`, to observations `[N, ...]`.
        num_latents: number of dimensions D of the latent state X.
        num_features: number of features of each observation.
        num_contents: number of time-invariant content features; 0 disables the content.
        hidden_features: widths of the hidden layers of the drift, diffusion and control networks.
        solver: integration method, `milstein` for a Stratonovich equation or `euler` for an Ito equation.
        substeps: number of integration steps between two observations.
        num_given: number of observations, at least 3, from which `test` predicts the later observations.
        optimizer: optimizer of all parameters, including H if H is learned.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        noise: Noise,
        encoder: nn.Module,
        decoder: nn.Module,
        num_latents: int = 6,
        num_features: int = 64,
        num_contents: int = 64,
        hidden_features: Sequence[int] = (200, 200),
        solver: Solver = "milstein",
        substeps: int = 3,
        num_given: int = 5,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, num_latents=num_latents, num_features=num_features, substeps=substeps)
        at_least(0, num_contents=num_contents)
        at_least(1, **{f"hidden_features[{k}]": width for k, width in enumerate(hidden_features)})
        at_least(LEAST_GIVEN, num_given=num_given)
        one_of(SOLVERS, solver=solver)
        _same("encoder.num_features", getattr(encoder, "num_features", num_features), "num_features", num_features)
        told = num_contents + num_latents
        _same(
            "decoder.in_features", getattr(decoder, "in_features", told), "num_contents and num_latents together", told
        )
        self.noise = noise
        self.encoder = encoder
        self.decoder = decoder
        self.content = Content(num_features, num_contents) if num_contents else None
        self.inference = Inference(num_features, num_latents)
        self.drift = tanh_layers(num_latents, hidden_features, num_latents)
        self.diffusion = DiagonalDiffusion(num_latents, hidden_features)
        told = num_latents * (noise.num_processes + 1) + num_features
        self.control = tanh_layers(told, hidden_features, num_latents, zero=True)
        self.prior_mean = nn.Parameter(torch.zeros(num_latents))
        self.prior_log_std = nn.Parameter(torch.zeros(num_latents))
        self.solver: Solver = solver
        self.substeps = substeps
        self.num_given = num_given
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.collected = Collected()

    def setup(self, stage: str) -> None:
        check_run(self.trainer, self.noise, self.substeps)
        data = data_with(self.trainer, TimedSequences)
        if data is not None and data.num_times <= self.num_given:
            raise ValueError(
                f"num_given must be below {data.num_times}, the number of observations of a sequence, so that some "
                f"remain to predict, got {self.num_given}"
            )

    def infer(self, observed: Tensor) -> tuple[Inferred, Tensor]:
        """Infer, from observations, the distribution of X(0), the features for the control, and the content.

        The content is the second return value, `[B, num_contents]`.
        """
        features = self.encoder(observed.flatten(0, 1)).unflatten(0, observed.shape[:2])
        content = features[:, 0, :0] if self.content is None else self.content(features)
        return self.inference(features), content

    def led_by(self, context: Tensor) -> Control:
        """Return a control that depends on the features of the observations, `[B, F, num_features]`.

        Between two observations, the features are interpolated linearly.
        """

        def control(step: int, x: Tensor, y: Tensor) -> Tensor:
            place, after = divmod(step, self.substeps)
            told = torch.lerp(context[:, place], context[:, place + 1], after / self.substeps)
            return self.control(torch.cat([x, y.flatten(1), told.to(x.dtype)], dim=1))

        return control

    def sample_paths(
        self, x: Tensor, y: Tensor, num_times: int, interval: float, control: Control | None
    ) -> SolutionPath:
        """Sample paths that start at x `[B, D]` and y `[B, D, K]`; each has `num_times` times, including the start."""
        check_step(self.noise.gamma_max, interval, self.substeps)
        dw = increments(x, (num_times - 1) * self.substeps, interval / self.substeps)
        equation = (self.noise.gamma, self.noise.omega(), self.drift, self.diffusion, control, self.solver)
        return integrate(x, y, dw, interval, self.substeps, *equation)

    def decode(self, content: Tensor, x: Tensor) -> Tensor:
        """Decode the content `[B, num_contents]` and X `[B, F, D]` to observations `[B, F, ...]`."""
        told = torch.cat([content[:, None].expand(-1, x.shape[1], -1), x.to(content.dtype)], dim=2)
        return self.decoder(told.flatten(0, 1)).unflatten(0, x.shape[:2])

    def reconstruct(self, batch: SequenceBatch) -> tuple[Terms, Tensor]:
        """Sample one posterior path for each sequence, and decode it.

        The results are the loss terms and the decoded observations, `[B, F, ...]`.
        """
        observed = batch["observed"]
        start, content = self.infer(observed)
        mean, std = start.mean.to(observed.dtype), start.std.to(observed.dtype)
        x = mean + std * sample_rows_like(torch.randn, mean)
        path = self.sample_paths(
            x, self.noise.start(x), observed.shape[1], batch["interval"], self.led_by(start.context)
        )
        prior = Normal(self.prior_mean, self.prior_log_std.exp(), validate_args=False)
        kl_start = kl_divergence(Normal(mean, std, validate_args=False), prior).sum(dim=1)
        given = self.decode(content, path.x).to(observed.dtype)
        return Terms(misfit(given, observed, batch.get("sigma")), kl_start, path.divergence), given

    def predict_course(self, batch: SequenceBatch) -> Tensor:
        """Predict the observations after the first `num_given`, and reconstruct the first `num_given`.

        The result contains both parts in order, `[B, F, ...]`.
        """
        observed = batch["observed"]
        start, content = self.infer(observed[:, : self.num_given])
        x = (start.mean + start.std * sample_rows_like(torch.randn, start.mean)).to(observed.dtype)
        led = self.sample_paths(x, self.noise.start(x), self.num_given, batch["interval"], self.led_by(start.context))
        further = observed.shape[1] - self.num_given + 1
        free = self.sample_paths(led.x[:, -1], led.y, further, batch["interval"], None)
        return self.decode(content, torch.cat([led.x, free.x[:, 1:]], dim=1))

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        terms, _ = self.reconstruct(batch)
        means = Terms(*(term.mean() for term in terms))
        return {"loss": log_training(self, batch, torch.stack(means).sum(), **means._asdict())}

    def on_train_epoch_end(self) -> None:
        log_same(self, "train/hurst", self.noise.hurst())

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, Tensor]:
        """Return the reconstructed and, for videos, the predicted observations, `[B, F, ...]`."""
        terms, given = self.reconstruct(batch)
        measured, outputs = [*terms], {"reconstructed": given}
        if given.ndim == 5:
            outputs["predicted"] = self.predict_course(batch)
            measured += [
                psnr(frames.flatten(0, 1), clean.flatten(0, 1), "clipped").unflatten(0, frames.shape[:2]).mean(dim=1)
                for frames, clean in (
                    (given, batch["observed"]),
                    (outputs["predicted"][:, self.num_given :], batch["observed"][:, self.num_given :]),
                )
            ]
        self.collected.update(batch["index"], torch.stack([term.double() for term in measured], dim=1))
        return outputs

    def on_test_epoch_end(self) -> None:
        _, rows = self.collected.compute()
        self.collected.reset()
        names = [*Terms._fields, "reconstruction_psnr", "psnr"]
        means = dict(zip(names, rows.mean(dim=0), strict=False))
        means["elbo"] = -sum(means[name] for name in Terms._fields)
        for name, value in {**means, "hurst": self.noise.hurst()}.items():
            log_same(self, f"test/{name}", value)

    def image_columns(self, batch: SequenceBatch, outputs: dict[str, Tensor]) -> dict[str, ImageColumn]:
        """Show the true, reconstructed and predicted frames of each video, from top to bottom."""
        rows = [batch["observed"], outputs["reconstructed"], outputs["predicted"]]
        white = torch.ones_like(rows[0][..., :BETWEEN, :])
        strip = torch.cat([rows[0], white, rows[1].to(white), white, rows[2].to(white)], dim=-2)
        places = torch.linspace(0, strip.shape[1] - 1, SHOWN).long().unique().tolist()
        captions = ["true, reconstructed, predicted"] * len(strip)
        return {
            f"{place}, {'given' if place < self.num_given else 'predicted'}": ImageColumn(
                strip[:, place], () if place else captions
            )
            for place in places
        }

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self))


def _same(name: str, width: int, other: str, expected: int) -> None:
    if width != expected:
        raise ValueError(f"{name} is {width}, but {other} {'are' if ' ' in other else 'is'} {expected}")
