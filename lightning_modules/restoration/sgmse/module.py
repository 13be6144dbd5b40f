"""The LightningModule of SGMSE+; the package docstring describes the method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive, within
from datamodules.batches import SpeechPairBatch
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adam, constant, trainable_parameters, with_schedule
from lightning_modules.restoration.sgmse.ouve import OUVE
from lightning_modules.restoration.sgmse.spectrogram import Spectrogram, as_channels
from lightning_modules.restoration.sgmse.speech_metrics import SpeechQuality
from lightning_modules.restoration.sgmse.speech_restorer import SpeechRestorerSteps
from lightning_modules.sde.flow import solve_flow
from lightning_modules.sde.processes import along
from lightning_modules.sde.samplers import Draw, annealed_langevin, predict_and_correct, reverse_diffusion
from lightning_modules.training.logging import log_training


@dataclass(frozen=True)
class Corrector:
    """Langevin corrector of the sampler.

    Args:
        steps: number of Langevin corrector steps per sampling step.
        snr: signal-to-noise ratio r that determines the step size of the corrector.
    """

    steps: int = 1
    snr: float = 0.5

    def __post_init__(self) -> None:
        at_least(0, steps=self.steps)
        positive(snr=self.snr)


class SGMSE(SpeechRestorerSteps, MethodModule):
    """Train a score network on spectrograms, and enhance recordings with its averaged weights.

    Args:
        network: network that predicts the real and imaginary parts of the negative score. Its inputs are the real and
            imaginary parts of the state and of the noisy spectrogram, `[B, 4, F, T]`, and times `[B]`.
        process: diffusion process from the clean to the noisy spectrogram.
        spectrogram: spectrogram transform of the recordings.
        frame_multiple: spectrograms are padded until their number of frames is a multiple of this number.
        num_steps: number N of sampling steps.
        corrector: Langevin corrector of the sampler.
        end: final time of sampling and smallest time in training, in (0, 1).
        sampler: sampling method: `predictor_corrector`, or `flow`, which solves the probability flow ODE to a tolerance
            of 1e-5.
        compared: further settings for `test`, as pairs (number of sampling steps, number of corrector steps). For each
            pair, `test` also enhances the recordings, and logs metrics such as `test/steps_10_corrector_1_si_sdr`.
            `callbacks.SaveTables` writes these metrics and the number of network evaluations to `sampler.csv`.
        average_decay: maximum decay of the weights' moving average, in [0, 1).
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from lightning_modules.restoration.sgmse.spectrogram import Spectrogram
        >>> from lightning_modules.restoration.sgmse.speech_ncsnpp import SpeechNCSNpp
        >>> network = SpeechNCSNpp(frequencies=16, width=8, multipliers=(1, 2), num_blocks=1, attention_sizes=(8,))
        >>> model = SGMSE(network, spectrogram=Spectrogram(n_fft=30, hop=8), frame_multiple=4, num_steps=2)
        >>> model.enhance(torch.full((1, 400), 0.1)).shape
        torch.Size([1, 400])
    """

    def __init__(
        self,
        network: nn.Module,
        process: OUVE = OUVE(),  # noqa: B008 - immutable
        spectrogram: Spectrogram = Spectrogram(),  # noqa: B008 - immutable
        frame_multiple: int = 64,
        num_steps: int = 30,
        corrector: Corrector = Corrector(),
        end: float = 0.03,
        sampler: Literal["predictor_corrector", "flow"] = "predictor_corrector",
        compared: Sequence[tuple[int, int]] = (),
        average_decay: float = 0.999,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(1, frame_multiple=frame_multiple, num_steps=num_steps)
        within(0, 1, "()", end=end)
        within(0, 1, "[)", average_decay=average_decay)
        one_of(("predictor_corrector", "flow"), sampler=sampler)
        predicts = sampler == "predictor_corrector"
        only_with("sampler predictor_corrector", predicts, SGMSE, num_steps=num_steps, compared=compared)
        steps = {f"corrector.{key}": value for key, value in vars(corrector).items()}
        only_with("sampler predictor_corrector", predicts, Corrector, **steps)
        for other_steps, other_corrections in compared:
            at_least(1, compared=other_steps)
            at_least(0, compared=other_corrections)
        self.network = network
        self.process = process
        self.spectrogram = spectrogram
        self.frame_multiple = frame_multiple
        self.num_steps = num_steps
        self.corrector = corrector
        self.end = end
        self.sampler = sampler
        self.compared = dict.fromkeys((steps, corrections) for steps, corrections in compared)
        self.average = AveragedWeights(network, lambda update: ramped_decay(update + 1, average_decay))
        self.quality = SpeechQuality()
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler

    def forward(self, x: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Estimate the score at complex spectrograms `[B, 1, F, T]` and times `[B]`."""
        return -self.network_output(as_channels(x, noisy), t)

    def training_step(self, batch: SpeechPairBatch, batch_idx: int) -> dict[str, Tensor]:
        device = batch["noisy"].device
        noisy, clean = self.pair_of_spectrograms(batch)
        with in_full_precision(device):
            t = self.end + (1 - self.end) * sample_rows(torch.rand, (len(clean),), device, dtype=clean.real.dtype)
            noise = sample_rows_like(torch.randn, clean)
            mean, deviation = self.process.towards(noisy).kernel(clean, t)
            deviation = along(deviation, clean)
            x = mean + deviation * noise
        score = self(x, noisy, t)
        with in_full_precision(device):
            loss = 0.5 * (deviation * score + noise).abs().square().flatten(1).sum(dim=1).mean()
        return {"loss": log_training(self, batch, loss)}

    def enhance_spectrogram(self, noisy: Tensor, draw: Draw) -> Tensor:
        process = self.process.towards(noisy)
        x = noisy + process.prior_deviation * draw(noisy)

        def score(x: Tensor, t: Tensor) -> Tensor:
            return self(x, noisy, t)

        with self.average.used_by(self.network):
            if self.sampler == "flow":
                solved = solve_flow(score, x, process, 1.0, self.end)
                return reverse_diffusion(score, solved.x, self.end, 1 / self.end, process, draw).mean
            times = torch.linspace(1, self.end, self.num_steps, dtype=torch.float64).tolist()
            sizes = [before - after for before, after in zip(times, [*times[1:], 0.0], strict=True)]

            langevin = partial(annealed_langevin, snr=self.corrector.snr, num_steps=self.corrector.steps)
            steps = [1 / size for size in sizes]
            return predict_and_correct(
                score, x, times, process, reverse_diffusion, langevin if self.corrector.steps else None, steps, draw
            )

    def other_estimates(self, batch: SpeechPairBatch) -> dict[str, Tensor]:
        own, estimates = (self.num_steps, self.corrector), {}
        try:
            for steps, corrections in self.compared:
                self.num_steps, self.corrector = steps, replace(own[1], steps=corrections)
                estimates[f"steps_{steps}_corrector_{corrections}"] = self.estimate(batch)
        finally:
            self.num_steps, self.corrector = own
        return estimates

    @property
    def tables(self) -> dict[str, Table]:
        """Speech quality for each setting of the sampler; empty until the settings `compared` are tested."""
        rows = pd.DataFrame(self.quality.table)
        prefixes = {setting: "steps_{}_corrector_{}_".format(*setting) for setting in self.compared}
        if not all(f"{prefix}si_sdr" in rows for prefix in prefixes.values()) or not prefixes:
            return {}
        prefixes[self.num_steps, self.corrector.steps] = ""
        measures = {"si_sdr": "SI-SDR in dB", "si_sar": "SI-SAR in dB", "estoi": "ESTOI", "pesq": "PESQ"}
        columns: dict[str, list[Any]] = {"network evaluations": [], "sampling steps": [], "corrector": []}
        for steps, corrections in sorted(prefixes):
            columns["network evaluations"].append(steps * (1 + corrections))
            columns["sampling steps"].append(steps)
            columns["corrector"].append(f"{corrections} corrector step{'' if corrections == 1 else 's'}")
            for measure, label in measures.items():
                if measure in rows:
                    value = float(rows[prefixes[steps, corrections] + measure].mean())
                    columns.setdefault(label, []).append(value)
        drawn = {label: columns[label] for label in measures.values() if label in columns}
        return {"sampler": Table(columns, drawn, ["network evaluations"])}

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(trainable_parameters(self.network))
        self.average.follow(self.network, optimizer)
        return with_schedule(optimizer, self.lr_scheduler)
