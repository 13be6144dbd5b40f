"""LightningModule that trains and evaluates NPNet; see the package docstring for the method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, one_of
from datamodules.batches import NoisePairBatch, PromptBatch
from datamodules.prompts.noise_pairs import NoisePairs
from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.guidance import Sampling, guided_model
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.diffusion.golden_noise.collection import FOLDER, CollectsPairs
from lightning_modules.diffusion.golden_noise.golden_sampling import GoldenSampling, Start
from lightning_modules.diffusion.golden_noise.redenoising import flow_levels, redenoise, redenoised_flow
from lightning_modules.diffusion.golden_noise.rewards import Called, compute_rewards
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.sde.ddim import level, scheduler_path
from lightning_modules.sde.discrete import Prediction, scheduler_levels, scheduler_prediction
from lightning_modules.training.logging import log_training

SHOWN, MOST_LETTERS = 8, 20
"""Number of prompts in an image grid, and maximum number of characters that it shows of each prompt."""


class GoldenNoise(GoldenSampling, CollectsPairs, MethodModule):
    """Collect noise pairs in `predict`, train NPNet on such pairs in `fit`, and evaluate NPNet's noise in `test`.

    Validation logs `val/loss`, the error of NPNet's noise, and `val/loss_of_standard`, the error of the unchanged
    noise. `test` generates two images for each prompt: one from standard noise, and one from improved noise. For each
    reward, `test` logs three values. `test/<name>` is the mean reward with improved noise, and
    `test/<name>_of_standard` is the mean reward with standard noise. `test/winning_rate_<name>` is the fraction of
    prompts for which improved noise gives the higher reward.

    The method `latents_for` computes the argument `latents` for an unmodified diffusers pipeline.

    Args:
        network: NPNet; `with_released_weights` loads the authors' weights.
        model: frozen diffusion model: `PixelModel`, or a text-to-image class such as `TextToImage`.
        rewards: dictionary of reward models that score images for texts, such as `CLIPReward`. The first reward decides
            which pairs are kept.
        start: kind of the initial noise in `test`. `golden` is predicted by NPNet, `standard` is unchanged noise, and
            `redenoised` is computed like the training targets.
        pair_steps: N, number of sampling steps of the schedule whose first step is used to create the pairs.
        pair_guidance: w_l, guidance scale of the DDIM step towards the image.
        inversion_guidance: w_w, guidance scale of the inversion step.
        official_offset: invert between the noise levels of the third and second timestep, as the authors' code does.
        sampling: number of steps and guidance scale of sampling.
        prompts: texts that `sample` cycles through.
        optimizer: optimizer of NPNet's parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from lightning_modules.backbones.diffusion.pixel_model import PixelModel
        >>> from lightning_modules.diffusion.golden_noise import NPNet
        >>> from lightning_modules.diffusion.hash_embedding import HashedWords
        >>> from lightning_modules.networks.time_conditioned_mlp import PromptedImageMLP
        >>> model = PixelModel(PromptedImageMLP(64, 16), DDIMScheduler(), HashedWords(length=1))
        >>> network = NPNet((1, 8, 8), 16, torch.nn.Conv2d(3, 5, 3, padding=1), feature_channels=5, image_size=8)
        >>> GoldenNoise(network, model).generate(["a dark room", "a bright room"]).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        model: nn.Module,
        rewards: Mapping[str, nn.Module] | None = None,
        start: Start = "golden",
        pair_steps: int = 10,
        pair_guidance: float = 5.5,
        inversion_guidance: float = 1.0,
        official_offset: bool = False,
        sampling: Sampling = Sampling(guidance_scale=5.5),
        prompts: Sequence[str] = ("",),
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(get_args(Start), start=start)
        at_least(2 + official_offset, pair_steps=pair_steps)
        at_least(0, pair_guidance=pair_guidance, inversion_guidance=inversion_guidance)
        at_least(1, num_prompts=len(prompts))
        modules = {
            name: each if isinstance(each, nn.Module) else Called(each) for name, each in (rewards or {}).items()
        }
        self.network = network
        self.model: Any = model.requires_grad_(False)
        self.rewards = nn.ModuleDict(modules).requires_grad_(False)
        self.start: Start = start
        self.pair_steps = pair_steps
        self.pair_guidance = pair_guidance
        self.inversion_guidance = inversion_guidance
        self.official_offset = official_offset
        self.num_inference_steps = sampling.steps
        self.guidance_scale = sampling.guidance_scale
        self.prompts = prompts
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        scheduler: Any = self.model.scheduler
        self.prediction: Prediction | Literal["flow"] = "flow"
        if isinstance(model, FlowTransformer):
            self.levels = flow_levels(model, network.latent_shape, pair_steps)  # type: ignore[arg-type]
            self.times = list(range(pair_steps + 1))
        else:
            self.prediction, self.levels = scheduler_prediction(scheduler), scheduler_levels(scheduler)
            spaced = scheduler if isinstance(scheduler, DDIMScheduler) else DDIMScheduler.from_config(scheduler.config)
            self.times = scheduler_path(spaced, pair_steps)
            if level(self.levels, self.times[0]) <= 0:
                raise ValueError("scheduler: abar of the first timestep must be above 0 for the inversion step, got 0")
        channels, wanted = getattr(network, "latent_shape", (0,))[0], getattr(self.model, "latent_shape", None)
        if wanted is not None and channels != wanted(1)[1]:
            raise ValueError(f"network has noise with {channels} channels, but the model's latents have {wanted(1)[1]}")
        self.means = nn.ModuleDict({"val": nn.ModuleDict(), "test": nn.ModuleDict()})

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, NoisePairs):
            raise TypeError(f"GoldenNoise needs the DataModule NoisePairs, got {type(data).__name__}")
        if stage == "test" and not self.rewards:
            raise ValueError("test needs model.rewards: give at least one reward model, such as CLIPReward")
        if stage == "validate" and data.train_set is None:
            data.read_pairs(Path(self.trainer.log_dir or "", FOLDER))
        prepare_for_ddp(self)

    # noise and images

    def better(self, noise: Tensor, texts: Sequence[str]) -> Tensor:
        prompts, empty = self.model.encode_prompts(texts), self.model.empty_prompts(len(noise))
        more, less = (
            guided_model(self.model, prompts, empty, w) for w in (self.pair_guidance, self.inversion_guidance)
        )
        if self.prediction == "flow":
            steps = self.model.scheduler.config.num_train_timesteps
            return redenoised_flow(more, less, noise, self.levels.tolist(), steps, self.official_offset)
        return redenoise(more, less, noise, self.times, self.levels, self.prediction, self.official_offset)

    # training

    def on_fit_start(self) -> None:
        self.read_or_collect(self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: NoisePairBatch, batch_idx: int) -> dict[str, Tensor]:
        golden = self.network(batch["source"], self.model.encode_prompts(batch["caption"]))
        return {"loss": log_training(self, batch, F.mse_loss(golden, batch["target"]))}

    def validation_step(self, batch: NoisePairBatch, batch_idx: int) -> None:
        golden = self.latents_for(batch["source"], batch["caption"])
        for name, noise in (("loss", golden), ("loss_of_standard", batch["source"])):
            self._average("val", name, (noise - batch["target"]).square().flatten(1).mean(dim=1))

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def _average(self, stage: str, name: str, values: Tensor) -> None:
        means: Any = self.means[stage]
        if name not in means:  # created here, so that a cast of the module to half precision does not cast the metrics
            means[name] = MeanMetric().set_dtype(torch.float64).to(self.device)
        means[name].update(values)

    def _log(self, stage: str) -> None:
        means: Any = self.means[stage]
        for name, mean in means.items():
            self.log(f"{stage}/{name}", mean)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    # test

    def test_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, Tensor]:
        """Generate images, `[B, C, H, W]`, from the initial noise that `start` selects; return them as `sample`."""
        noise, texts = self.draw(batch["seed"]), batch["caption"]
        sample = self.images(self.initial_latents_of(noise, texts), texts, self.generators(batch["seed"]))
        found = compute_rewards(self.rewards, sample, texts)
        for name, score in found.items():
            self._average("test", name, score)
        if self.start != "standard":
            plain = self.images(noise, texts, self.generators(batch["seed"]))
            for name, before in compute_rewards(self.rewards, plain, texts).items():
                self._average("test", f"{name}_of_standard", before)
                self._average("test", f"winning_rate_{name}", (found[name] > before).double())
        return {"sample": sample}

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def image_columns(self, batch: PromptBatch, outputs: dict[str, Tensor]) -> dict[str, ImageColumn]:
        """Show images from each of the three kinds of initial noise for a few prompts, with the first reward."""
        noise, texts = self.draw(batch["seed"][:SHOWN]), batch["caption"][:SHOWN]
        shown: dict[str, ImageColumn] = {}
        for start in ("standard", "golden", "redenoised"):
            images = self.images(
                self.initial_latents_of(noise, texts, start), texts, self.generators(batch["seed"][:SHOWN])
            )
            score = next(iter(compute_rewards(self.rewards, images, texts).values())).tolist()
            lines = [f"{text[:MOST_LETTERS]}: {value:.2f}" for text, value in zip(texts, score, strict=True)]
            shown[start] = ImageColumn(images, lines)
        return shown
