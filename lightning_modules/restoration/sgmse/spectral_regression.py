"""Baseline of SGMSE+.

The network of SGMSE+ predicts clean spectrograms from noisy spectrograms by regression. It minimises

    L = mean over the batch of sum over frequencies and frames |f(y) - x|^2

for compressed complex spectrograms y (noisy) and x (clean). Both recordings are divided by the peak amplitude of the
noisy one. The inputs of the network are two copies of y and the time 1.

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830, which has the same baseline.
"""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.batches import SpeechPairBatch
from lightning_modules.full_precision import in_full_precision
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram, as_channels
from lightning_modules.restoration.sgmse.speech_metrics import SpeechQuality
from lightning_modules.restoration.sgmse.speech_restorer import SpeechRestorerSteps
from lightning_modules.sde.samplers import Draw
from lightning_modules.training.logging import log_training


class SpectralRegression(SpeechRestorerSteps, MethodModule):
    """Train a network to predict clean spectrograms in one step.

    Args:
        network: network that predicts the real and imaginary parts of the clean spectrogram. Its first input, `[B, 4,
            F, T]`, has two copies of the real and imaginary parts of the noisy spectrogram. Its second input, `[B]`,
            contains the times, which are all 1.
        spectrogram: spectrogram transform of the recordings.
        frame_multiple: spectrograms are padded to a number of frames that is a multiple of `frame_multiple`.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
        >>> from lightning_modules.restoration.sgmse.speech_ncsnpp import SpeechNCSNpp
        >>> network = SpeechNCSNpp(frequencies=16, width=8, multipliers=(1, 2), num_blocks=1, attention_sizes=(8,))
        >>> model = SpectralRegression(network, spectrogram=Spectrogram(n_fft=30, hop=8), frame_multiple=4)
        >>> model.enhance(torch.full((1, 400), 0.1)).shape
        torch.Size([1, 400])
    """

    def __init__(
        self,
        network: nn.Module,
        spectrogram: Spectrogram = Spectrogram(),  # noqa: B008 - immutable
        frame_multiple: int = 64,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, frame_multiple=frame_multiple)
        self.network = network
        self.spectrogram = spectrogram
        self.frame_multiple = frame_multiple
        self.quality = SpeechQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, noisy: Tensor) -> Tensor:
        """Estimate clean spectrograms from noisy complex spectrograms `[B, 1, F, T]`."""
        return self.network_output(as_channels(noisy, noisy), torch.ones(len(noisy), device=noisy.device))

    def training_step(self, batch: SpeechPairBatch, batch_idx: int) -> dict[str, Tensor]:
        noisy, clean = self.pair_of_spectrograms(batch)
        estimate = self(noisy)
        with in_full_precision(batch["noisy"].device):
            loss = (estimate - clean).abs().square().flatten(1).sum(dim=1).mean()
        return {"loss": log_training(self, batch, loss)}

    def enhance_spectrogram(self, noisy: Tensor, draw: Draw) -> Tensor:
        return self(noisy)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
