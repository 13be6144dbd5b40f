"""EDiffSR: super-resolution by a mean-reverting diffusion.

The reverse process starts from the bicubically upsampled image.

The module `sde.mean_reverting` defines the forward process, with r_t, s_t and lambda. This process moves the sharp
image x_0 towards the upsampled image mu, and adds noise. The inputs of the network n are the state x_t, mu and t. The
network is trained so that the reverse step m, computed from the network's output, matches the posterior mean o of the
previous state:

    L = mean |m - o|,    m = x_t - r_t (mu - x_t) - 2 lambda^2 r_t n(x_t, mu, t) / s_t,    o = E[x_{t-1} | x_t, x_0]

with t uniform on 1 ... T. Sampling takes T steps from mu + lambda e, where e is standard normal noise. The last step
adds noise too.

As in the authors' code, mu is not clipped. The published weights are the trained weights, not their moving average. The
argument `weights` selects which of the two are evaluated. The moving average follows our recollection of ema_pytorch:
it is updated every ten steps. Up to step 100, the average is a copy of the trained weights. After that, its decay is
min(decay, 1 - (1 + k)^{-2/3}) with k = step - 100. Departures: timesteps are sampled for the global batch instead of
per rank, and the noise of an image depends only on the seed, the index of the image and the step.

The gates of the network use global pooling, so tiling changes the result. By default, images are therefore restored
without tiling. Tiling changed the PSNR by at most 0.02 dB, and the error of the spectrum by at most 0.4 %. This was
measured on three aerial images of 256 pixels, with a small network after 1,500 training steps. The tiles had 128 pixels
and an overlap of 32 pixels.

Source: Xiao, Yuan, Jiang, He, Jin and Zhang, EDiffSR: An Efficient Diffusion Probabilistic Model for Remote Sensing
Image Super-Resolution, IEEE TGRS 2024, arXiv 2310.19288.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.batches import ImagePairBatch
from datamodules.distributed.collectives import run_seed
from datamodules.randomness.counter import CounterRNG
from datamodules.randomness.generators import drawing
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.backbones.resized import times_larger
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.full_precision import at_least_float32
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.optim.averages import AveragedWeights
from lightning_modules.optim.optimizers import adamw, constant, trainable_parameters, with_schedule
from lightning_modules.sde.mean_reverting import SAMPLERS, MeanReverting, Sampler
from lightning_modules.tasks.restorer import RestorerSteps
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_training

STREAM = 20_000
"""Index of the first of the random streams that are used for the sampling noise."""


def decay_after(step: int, decay: float) -> float:
    """Compute the decay of the averaged weights after step `step`; steps are counted from 0.

    In nine of ten steps, the decay is 1, which leaves the average unchanged.
    """
    if step % 10:
        return 1.0
    return 0.0 if step <= 100 else min(decay, 1 - (step - 99) ** (-2 / 3))


class EDiffSR(RestorerSteps, MethodModule):
    """Train a diffusion network for image super-resolution.

    Args:
        network: network that predicts the noise in the state; its inputs are the state and the upsampled image, both
            `[B, C, H, W]`, and timesteps `[B]`.
        process: mean-reverting diffusion process.
        factor: upsampling factor along each axis.
        sampler: sampling method: `euler`, as in the paper, `ode`, or `posterior`, which is useful when the number of
            sampling steps is small.
        sampling_steps: number of sampling steps; None uses all steps of the process.
        weights: which weights to use for inference: `trained`, `averaged`, or `both`. With `both`, the trained weights
            are used, and `test` also evaluates the averaged weights and logs `test/averaged_psnr` etc. This doubles the
            cost of `test`.
        average_decay: maximum decay of the weights' moving average, in [0, 1).
        inference: tiling and self-ensemble of every network evaluation during sampling. Tiling changes the result,
            because the gates of the network then pool over a tile instead of the whole image; docs/restoration.md
            quantifies the change.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from lightning_modules.networks.eanet import EANet
        >>> from lightning_modules.sde.mean_reverting import MeanReverting
        >>> model = EDiffSR(EANet(channels=1, width=16, encoder=[1], decoder=[1]), MeanReverting(4), factor=4)
        >>> model.restore(torch.full((2, 1, 4, 4), 0.5), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        process: MeanReverting = MeanReverting(),  # noqa: B008 - immutable
        factor: int = 4,
        sampler: Sampler = "euler",
        sampling_steps: int | None = None,
        weights: Literal["trained", "averaged", "both"] = "trained",
        average_decay: float = 0.995,
        inference: TiledInference = TiledInference(),  # noqa: B008 - immutable
        protocol: EvaluationProtocol = "rounded",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, factor=factor)
        one_of(SAMPLERS, sampler=sampler)
        one_of(("trained", "averaged", "both"), weights=weights)
        within(0, 1, "[)", average_decay=average_decay)
        if sampling_steps is not None:
            within(1, process.steps, sampling_steps=sampling_steps)
        self.network = network
        self.process = process
        self.factor = factor
        self.sampler: Sampler = sampler
        self.sampling_steps = sampling_steps
        self.weights = weights
        self.average = AveragedWeights(network, partial(decay_after, decay=average_decay))
        self.inference = inference
        self.quality = ImageQuality(protocol)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, x: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        """Estimate the noise in states `[B, C, H, W]` at timesteps `[B]`.

        The result has the dtype of the states.
        """
        return self.network(x.to(self.dtype), degraded.to(self.dtype), t).to(x.dtype)

    def training_step(self, batch: ImagePairBatch, batch_idx: int) -> dict[str, Tensor]:
        clean, large = batch["clean"], times_larger(batch["noisy"], self.factor)
        t = sample_rows(partial(torch.randint, 1, self.process.steps + 1), (len(clean),), clean.device)
        x = self.process.add_noise(clean, large, t, sample_rows_like(torch.randn, clean))
        made = self.process.step_back(x, large, self(x, large, t), t)
        loss = (made - self.process.best_step_back(x, clean, large, t)).abs().mean()
        return {"loss": log_training(self, batch, loss)}

    @evaluate_without_gradients
    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._restore(degraded, drawing(generator))

    def estimate(self, batch: ImagePairBatch) -> Tensor:
        """Upsample a batch.

        The noise of an image is seeded by the seed of the run, the index of the image and the step.
        """
        numbers = CounterRNG(run_seed(), 0, batch["index"], STREAM)
        return self._restore(at_least_float32(batch["noisy"]), numbers.normal)

    def other_estimates(self, batch: ImagePairBatch) -> dict[str, Tensor]:
        if self.weights != "both":
            return {}
        with self.average.used_by(self.network):
            return {"averaged": self.estimate(batch)}

    def _restore(self, degraded: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        large = times_larger(degraded, self.factor)

        def noise_in(x: Tensor, t: int) -> Tensor:
            times = torch.full((len(x),), t, device=x.device)
            return self.inference(lambda both: self(*both.chunk(2, dim=1), times), torch.cat([x, large], dim=1))

        with self.average.used_by(self.network) if self.weights == "averaged" else nullcontext():
            return self.process.sample(noise_in, large, draw, self.sampler, self.sampling_steps)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network))
        self.average.follow(self.network, optimizer)
        return with_schedule(optimizer, self.lr_scheduler)
