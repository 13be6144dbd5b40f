"""CPU time of a training step in `fit`, divided by that of bare Lightning and of an equivalent plain loop.

All three train the demo's network with the demo's optimizer, on batches of the same shapes. `fit` trains the demo's
module with its DataModule and the guards of `configs/defaults.yaml`. The bare module logs its loss with the defaults of
`self.log`, and reads rows of tensors, like the plain loop. None of them has additional callbacks, validates, or writes
files.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from datamodules.randomness.generators import generator_of
from lightning_modules.denoising.noise2score import annealed_sigma, score_loss
from lightning_modules.diffusion.finetuning.objectives import denoising_errors
from lightning_modules.diffusion.finetuning.weighting import min_snr_weight
from lightning_modules.diffusion.score_sde.trained_levels import score_matching
from lightning_modules.efficiency.ofq.module import distillation
from lightning_modules.optimization.monna.exchange import exchange_vectors
from lightning_modules.optimization.monna.module import node_losses
from tests.benchmarks.pairs import medians
from tests.conformance.experiments import CONFIGS, experiments
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
Batch = dict[str, Any]


class Rows(Dataset[Batch]):
    """The samples of some batches, readable by row."""

    def __init__(self, batches: list[Batch]) -> None:
        tensors = [key for key, value in batches[0].items() if isinstance(value, Tensor)]
        self.columns = {key: torch.cat([batch[key] for batch in batches]) for key in tensors}
        self.rest = {key: value for key, value in batches[0].items() if key not in tensors}
        self.batch_size = batches[0]["global_batch_size"]

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, rows: Any) -> Batch:
        return {**{key: column[rows] for key, column in self.columns.items()}, **self.rest}


class Recorder(Callback):
    """Stores training batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batches.append(
            {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
        )


def elr_loss(module: Any, batch: Batch) -> Tensor:
    index = batch["index"]
    logits = module.network(batch["image"])
    p = logits.softmax(dim=1).clamp(1e-4, 1 - 1e-4)
    target = 0.7 * module.memory[index] + 0.3 * (p / p.sum(dim=1, keepdim=True)).detach()
    module.memory[index] = target
    return F.cross_entropy(logits, batch["label"]) + 3.0 * (1 - (target * p).sum(dim=1)).log().mean()


def score_sde_loss(module: Any, batch: Batch) -> Tensor:
    data, levels = batch["image"], module.levels
    t = levels.times(torch.rand(len(data)))
    noise = torch.randn_like(data)
    mean, deviation = levels.kernel(data, t)
    score = levels.score(module.network, mean + deviation.view(-1, 1, 1, 1) * noise, t)
    return score_matching(score, noise, deviation, None, True).mean()


def noise2score_loss(module: Any, batch: Batch) -> Tensor:
    noisy = batch["noisy"]
    module.images_seen += len(noisy)
    sigma = annealed_sigma(*module.sigma, module.images_seen, module.anneal_images)
    perturbation = torch.randn_like(noisy)
    return score_loss(module.score_scale * module.network(noisy + sigma * perturbation), perturbation, sigma)


def ofq_loss(module: Any, batch: Batch) -> Tensor:
    image = batch["image"]
    return sum(distillation(module.network(image), batch["label"], module.teacher(image)))  # type: ignore[return-value]


def ofq_after(module: Any) -> None:
    module.annealing.restore()
    for rows, tracker in zip(module.rows, module.trackers, strict=True):
        tracker.update(rows.integers)


def finetuning_loss(module: Any, batch: Batch) -> Tensor:
    latent = module.network.encode(batch["image"])
    given = module.objective
    noise, t = torch.randn_like(latent), torch.randint(len(given.abar), (len(latent),))
    error = denoising_errors(module.network, latent, None, noise, t, given.abar, given.prediction)
    return (error * min_snr_weight(given.abar[t], given.min_snr_gamma, given.prediction)).mean()


def sgmse_loss(module: Any, batch: Batch) -> Tensor:
    noisy, clean = module.pair_of_spectrograms(batch)
    t = module.end + (1 - module.end) * torch.rand(len(clean))
    noise = torch.randn_like(clean)
    mean, deviation = module.process.towards(noisy).kernel(clean, t)
    deviation = deviation.view(-1, 1, 1, 1)
    score = module(mean + deviation * noise, noisy, t)
    return 0.5 * (deviation * score + noise).abs().square().flatten(1).sum(dim=1).mean()


def monna_round(module: Any, batch: Batch, optimizer: Any) -> Tensor:
    network = module.network
    image, label = (batch[key].unflatten(0, (network.count, -1)) for key in ("image", "label"))
    loss = node_losses(network.each(network.tensors(), image), label, network.weights, module.norm_weight)
    (gradient,) = torch.autograd.grad(loss.sum(), network.weights)
    with torch.no_grad():
        momentum = network.momentum.mul_(module.momentum).add_(gradient, alpha=1 - module.momentum)
        network.weights.grad = momentum
        optimizer.step()
        module.rounds += 1
        rules = (module.rule, module.byzantine, module.attack, module.rounds)
        network.weights.copy_(
            exchange_vectors(network.weights, network, *rules, generator_of(module.rounds), relative=True)
        )
    return loss.detach().mean()


@dataclass
class Method:
    """A training step of a demo, written as plain code."""

    config: str
    steps: int
    """Steps per round."""
    loss: Callable[[Any, Batch], Tensor] | None = None
    after: Callable[[Any], None] = lambda module: None
    """Function that runs after the optimizer's step."""
    round: Callable[[Any, Batch, Any], Tensor] | None = None
    """Function that takes the whole step, for methods that do not minimise a loss."""
    clip: float | None = None


METHODS = {
    "ELR": Method("elr/demo", 200, elr_loss),
    "score_sde": Method("score_sde/demo", 100, score_sde_loss, clip=1.0),
    "MoNNA": Method("monna/demo", 100, round=monna_round),
    "noise2score": Method("noise2score/demo", 24, noise2score_loss),
    "OFQ": Method("ofq/demo", 24, ofq_loss, ofq_after),
    "fine-tuning": Method("finetuning/demo", 24, finetuning_loss),
    "SGMSE+": Method("sgmse/demo", 40, sgmse_loss),
}


class Bare(LightningModule):
    """The same step as in the plain loop, as a LightningModule."""

    def __init__(self, method: Method, module: Any) -> None:
        super().__init__()
        self.network = module.network
        self.method, self.whole = method, (module,)
        self.automatic_optimization = method.round is None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        module = self.whole[0]
        if self.method.round is None:
            loss = self.method.loss(module, batch)  # type: ignore[misc]
        else:
            loss = self.method.round(module, batch, self.optimizers())
            self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log("train/loss", loss)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.method.after(self.whole[0])

    def configure_optimizers(self) -> Any:
        return self.whole[0].configure_optimizers()


def plain_loop(method: Method, module: Any, rows: Rows, epochs: int, batches: int) -> None:
    (optimizer,), (scheduler,) = module.configure_optimizers()
    for _ in range(epochs):
        order = torch.randperm(len(rows))
        for number in range(batches):
            batch = rows[order[number * rows.batch_size : (number + 1) * rows.batch_size]]
            if method.loss is None:
                method.round(module, batch, optimizer)  # type: ignore[misc]
            else:
                loss = method.loss(module, batch)
                optimizer.zero_grad()
                loss.backward()
                if method.clip:
                    torch.nn.utils.clip_grad_norm_(module.network.parameters(), method.clip)
                optimizer.step()
                method.after(module)
            if scheduler["interval"] == "step":
                scheduler["scheduler"].step()
        if scheduler["interval"] == "epoch":
            scheduler["scheduler"].step()


def epochs_time(trainer: Trainer, *arguments: Any) -> float:
    """Train, and return the CPU time of all epochs, without setup and teardown."""
    run, spent = trainer.fit_loop.run, 0.0

    def measured() -> None:
        nonlocal spent
        start = time.process_time()
        run()
        spent = time.process_time() - start

    trainer.fit_loop.run = measured  # type: ignore[method-assign]
    trainer.fit(*arguments)
    return spent


class Ways:
    """Three ways to train a demo for some epochs with the same steps; each way returns its CPU time."""

    def __init__(self, method: Method) -> None:
        self.method = method
        parser, parsed = experiments().parser, experiments().parsed
        built = parser.instantiate(parsed("--config", CONFIGS / f"{method.config}.yaml")).fit
        self.module, self.data, self.guards = built.model, built.data, built.guards.callbacks
        self.module.annealed_epochs = 0  # only OFQ has this setting
        self.batches, self.epochs = method.steps, 1
        self.copy = copy.deepcopy(self.module)
        recorder = Recorder()
        trainer = self.trainer([recorder])
        trainer.fit(self.module, self.data)
        self.batches = min(int(trainer.num_training_batches), method.steps)
        self.epochs = -(-method.steps // self.batches)
        self.rows = Rows(recorder.batches[: self.batches])
        self.copy.load_state_dict(self.module.state_dict())
        self.copy.rounds, self.copy.memory = 0, torch.zeros(self.data.num_train_samples, 10)

    def trainer(self, callbacks: list[Callback]) -> Trainer:
        options = {"max_epochs": self.epochs, "limit_train_batches": self.batches, "limit_val_batches": 0}
        return quiet(**options, gradient_clip_val=self.method.clip, callbacks=callbacks)

    def ours(self) -> float:
        return epochs_time(self.trainer(self.guards), self.module, self.data)

    def bare(self) -> float:
        order = BatchSampler(RandomSampler(self.rows), self.rows.batch_size, drop_last=False)
        loader = DataLoader(self.rows, sampler=order, batch_size=None)
        return epochs_time(self.trainer([]), Bare(self.method, self.copy), loader)

    def plain(self) -> float:
        start = time.process_time()
        plain_loop(self.method, self.copy, self.rows, self.epochs, self.batches)
        return time.process_time() - start


@pytest.mark.parametrize("name", METHODS)
def test_time_of_a_step(name: str, report: Report) -> None:
    ways = Ways(METHODS[name])
    spent = medians({"plain": ways.plain, "bare": ways.bare, "ours": ways.ours}, rounds=5)
    steps = ways.epochs * ways.batches
    print(name, {each: f"{1e3 * seconds / steps:.2f} ms" for each, seconds in spent.items()})
    over_bare, over_plain = spent["ours"] / spent["bare"], spent["ours"] / spent["plain"]
    report(f"CPU time of a step through fit over bare Lightning, {name}", over_bare, "<= 1.02")
    report(f"CPU time of a step through fit over a plain loop, {name}", over_plain, "-")
    assert over_bare <= 1.02
