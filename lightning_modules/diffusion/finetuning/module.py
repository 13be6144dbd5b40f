"""LightningModule that fine-tunes diffusion models on images, with or without captions."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, positive, within
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.pipelines import family_of
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, adapted_parts, families
from lightning_modules.backbones.lora_names import Tool, save_adapters
from lightning_modules.diffusion.finetuning.caption_dropout import CaptionDropout
from lightning_modules.diffusion.finetuning.checkpoints import ChecksCheckpoints
from lightning_modules.diffusion.finetuning.data_checks import check_sharding, check_sources, describe_cut_captions
from lightning_modules.diffusion.finetuning.exported_network import ExportsNetwork
from lightning_modules.diffusion.finetuning.objectives import (
    FlowMatching,
    FlowObjective,
    LossOptions,
    training_objective,
)
from lightning_modules.diffusion.finetuning.preparation import prepare_text_to_image
from lightning_modules.diffusion.finetuning.sharding import share_out
from lightning_modules.diffusion.finetuning.steps import FineTuningSteps
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adamw, constant, trainable_parameters


class DiffusionFineTuning(FineTuningSteps, ExportsNetwork, ChecksCheckpoints, MethodModule):
    """Fine-tune a diffusion model on images, and save the model in the format of diffusers or peft.

    After training, the model is saved to `pipeline/` in the run directory. Validation and test log `loss`, the
    unweighted error of the averaged weights on held-out images. Each held-out image has a fixed timestep and fixed
    noise, so that the losses of different epochs are comparable. `ImageGrid` shows held-out images next to samples for
    the same captions.

    Args:
        network: a text-to-image model of `lightning_modules.backbones.diffusion`, such as `TextToImage`,
            `StableDiffusion3`, `Flux` or `PixArtSigma`, or a pixel-space model (`PixelSpace` or `pixel_pipeline`).
        min_snr_gamma: gamma of the Min-SNR weights; None gives all timesteps the same weight. Must be None for
            flow-matching models.
        flow: distribution of times and loss weights of flow matching; None uses the defaults of `FlowMatching`. Allowed
            only for flow-matching models.
        caption_dropout: probability of training on an image without its caption, in [0, 1). A list with one probability
            for each text encoder drops the embeddings of the encoders independently.
        average_decay: maximum decay of the averaged weights, in [0, 1). With 0, no average is computed, and the weights
            of the last step are used.
        cache_dir: folder in which latents and caption embeddings are cached before training. The text encoders are then
            removed from memory. Cached images are centre-cropped; with random flips, the latents of the mirrored images
            are cached as well. None computes latents and embeddings in each training step.
        prompts: texts that `sample` cycles through; the default is the empty text.
        sampling: number of steps and guidance scale of sampling.
        optimizer: optimizer of the trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
        loss: offset noise, weights, Huber loss and preferences; None uses the defaults of `LossOptions`.
        average_on_cpu: store the averaged weights in host memory instead of GPU memory.

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
        >>> from lightning_modules.networks.time_conditioned_mlp import TimeConditionedImageMLP
        >>> model = DiffusionFineTuning(PixelSpace(TimeConditionedImageMLP(64), DDIMScheduler(), (1, 8, 8)))
        >>> model.num_inference_steps = 5
        >>> model.sample(2, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """

    resume_may_change = ("cache_dir",)

    def __init__(
        self,
        network: TextToImage | PixelSpace,
        min_snr_gamma: float | None = 5.0,
        flow: FlowMatching | None = None,
        caption_dropout: float | Sequence[float] = 0.0,
        average_decay: float = 0.9999,
        cache_dir: str | None = None,
        prompts: Sequence[str] = ("",),
        sampling: Sampling = Sampling(),
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
        loss: LossOptions | None = None,
        average_on_cpu: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(network, TextToImage | PixelSpace):
            raise TypeError(
                "network must be a TextToImage, a family of it such as StableDiffusion3 or Flux, PixelSpace or "
                f"pixel_pipeline, got {type(network).__name__}"
            )
        positive(min_snr_gamma=min_snr_gamma)
        within(0, 1, "[)", average_decay=average_decay)
        at_least(1, num_prompts=len(prompts))
        self.dropout = CaptionDropout(caption_dropout)
        if isinstance(network, TextToImage):
            self.dropout.check(network)
        elif self.dropout.active or cache_dir:
            raise ValueError("caption_dropout and cache_dir need a text-to-image model, got PixelSpace")
        if not trainable_parameters(network):
            raise ValueError("network has no trainable parameters: its tuning must be full or lora")
        preference = loss is not None and loss.dpo_beta is not None
        if cache_dir is not None and (preference or getattr(network, "trains_text", False)):
            method = "loss.dpo_beta" if preference else "text_adapters, because embeddings change in training"
            raise ValueError(f"cache_dir must be null with {method}, got {cache_dir}")
        self.network = network
        self.caption_dropout = caption_dropout
        self.average_decay = average_decay
        self.cache_dir = cache_dir
        self.prompts = prompts
        self.takes_prompts = isinstance(network, TextToImage)
        self.generator_per_image = True
        self.num_inference_steps = sampling.steps
        self.guidance_scale = sampling.guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.objective = training_objective(network, min_snr_gamma, flow, loss or LossOptions(), DiffusionFineTuning)
        decay = partial(ramped_decay, decay=average_decay) if average_decay else None
        self.average = AveragedWeights(network, decay, average_on_cpu)
        self.losses = MeanMetric()
        if self.edits:
            self.condition: Tensor | None = None

    @classmethod
    def check_before_loading(cls, data: Any, settings: Mapping[str, Any]) -> None:
        """Before the pipeline is loaded, reject missing source images, and condition images that have no use."""
        model = _family(settings)
        if model is None:
            return
        if model.takes_source:
            check_sources(data, model.__name__)
        elif (settings.get("loss") or {}).get("dpo_beta") is None and getattr(data.images, "condition_dir", None):
            raise ValueError(
                f"data.images.condition_dir is for models that edit images, such as FluxKontext, and for "
                f"loss.dpo_beta: set it to null for {model.__name__}, got {data.images.condition_dir}"
            )

    @classmethod
    def loss_docstring(cls, settings: Mapping[str, Any]) -> str | None:
        """Return the docstring of the flow-matching loss if the network is a flow-matching model, or else None."""
        model = _family(settings)
        return inspect.getdoc(FlowObjective) if model and issubclass(model, FlowTransformer) else None

    @classmethod
    def describe_captions(cls, data: Any, settings: Mapping[str, Any]) -> list[list[str]]:
        """Describe captions that a text encoder of a text-to-image model cuts, in rows of a fact and its value."""
        network = settings.get("network") or {}
        arguments = network.get("init_args") or {}
        return describe_cut_captions(data, arguments) if "pipeline" in arguments else []

    def configure_model(self) -> None:
        """Shard the trained network over ranks, block by block, if the strategy is `ModelParallelStrategy`."""
        if self.device_mesh is None or self._shared_out:
            return
        check_sharding(self)
        share_out(self.network.network, self.device_mesh["data_parallel"])
        self.average = AveragedWeights(self.network, self.average.decay)
        self._shared_out = True
        self.strict_loading = False  # checkpoints contain only trained parameters

    def on_fit_start(self) -> None:
        if isinstance(self.network, TextToImage):
            prepare_text_to_image(self, self.network)

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        with self.average.used_by(self.network):
            save_model(self.network, folder, writes, merge)

    def save_adapters(self, file: Path, tool: Tool) -> None:
        with self.average.used_by(self.network):
            save_adapters(adapted_parts(self.network) if isinstance(self.network, TextToImage) else {}, file, tool)


def _family(settings: Mapping[str, Any]) -> type[TextToImage] | None:
    """Return the model class of a run's network; None for pixel-space models and pipelines that are not on disk."""
    network = settings.get("network") or {}
    arguments, name = network.get("init_args") or {}, str(network.get("class_path")).rpartition(".")[2]
    model = {each.__name__: each for each in families().values()}.get(name)
    if name == "text_to_image_pipeline":
        with suppress(OSError, ValueError):
            model = family_of(arguments["pipeline"], families(), local_files_only=True)
    return model
