"""Train a ControlNet, a copy of a network's blocks that conditions the frozen network on an image x.

    y = F(z, c) + Z_2(G(z + Z_1(x), c))

Here F are the frozen blocks, G is their trainable copy, and Z_1 and Z_2 are zero-initialised layers. z is the input of
the blocks, and c is the embedding of a prompt.

Source: Zhang, Rao and Agrawala, Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023,
arXiv 2302.05543.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, only_with, positive, within
from datamodules.batches import CaptionedImageBatch
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.pipelines import family_of
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, families
from lightning_modules.diffusion.finetuning.caption_dropout import CaptionDropout
from lightning_modules.diffusion.finetuning.controlled_network import (
    FLUX,
    QUANTIZED,
    ControlledNetwork,
    CopiedBlocks,
    check_family,
    control_of,
    controlled_pipeline,
    new_controlnet,
)
from lightning_modules.diffusion.finetuning.data_checks import reject_prior, require_conditions
from lightning_modules.diffusion.finetuning.objectives import FlowMatching, LossOptions, training_objective
from lightning_modules.diffusion.finetuning.steps import FineTuningSteps
from lightning_modules.interfaces import ImageColumn
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights, ramped_decay
from lightning_modules.optim.optimizers import adamw, constant, trainable_parameters

NO_CONDITIONS = "a ControlNet needs condition images: set data.images.condition_dir to their folder"


class ControlNet(FineTuningSteps, MethodModule):
    """Train a ControlNet on images with captions and condition images; all weights of the pipeline are frozen.

    The ControlNet is initialised with a copy of the network's blocks. Before training, its outputs are zero, so that
    predictions are those of the network alone. After training, the ControlNet is saved to `pipeline/controlnet` in the
    run directory, in the format of diffusers' `from_pretrained`. Validation and test work as in `DiffusionFineTuning`.

    Args:
        network: a frozen `TextToImage` (Stable Diffusion or SDXL), `StableDiffusion3` or `Flux`.
        blocks: which blocks of the network the ControlNet copies, and how it stores their activations.
        min_snr_gamma: gamma of the Min-SNR weights; None gives all timesteps the same weight. Must be None for
            flow-matching models.
        flow: distribution of times and loss weights of flow matching; None uses the defaults of `FlowMatching`. Allowed
            only for flow-matching models.
        caption_dropout: probability of training on an image without its caption, in [0, 1); or a list with one such
            probability for each text encoder.
        average_decay: maximum decay of the averaged weights, in [0, 1). With 0, no average is computed, and the weights
            of the last step are used.
        prompts: texts that `sample` cycles through; the default is the empty text.
        sampling: number of steps and guidance scale of sampling.
        optimizer: optimizer of the ControlNet's parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
        loss: settings of offset noise and mask weights; None uses the defaults of `LossOptions`.
    """

    def __init__(
        self,
        network: TextToImage,
        blocks: CopiedBlocks = CopiedBlocks(),
        min_snr_gamma: float | None = None,
        flow: FlowMatching | None = None,
        caption_dropout: float | Sequence[float] = 0.0,
        average_decay: float = 0.0,
        prompts: Sequence[str] = ("",),
        sampling: Sampling = Sampling(),
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
        loss: LossOptions | None = None,
    ) -> None:
        super().__init__()
        positive(min_snr_gamma=min_snr_gamma)
        within(0, 1, "[)", average_decay=average_decay)
        at_least(1, num_prompts=len(prompts))
        control = control_of(network)
        only_with("a transformer", control.sees_latents, CopiedBlocks, num_layers=blocks.num_layers)
        only_with("FLUX.1", control.residuals == FLUX, CopiedBlocks, num_single_layers=blocks.num_single_layers)
        if trainable_parameters(network):
            raise ValueError("network must have tuning: frozen, because only the ControlNet is trained")
        self.dropout = CaptionDropout(caption_dropout)
        self.dropout.check(network)
        self.network = network
        self.controlnet: Any = new_controlnet(network, blocks)
        self.condition: Tensor | None = None
        self.prompts = prompts
        self.takes_prompts = self.generator_per_image = True
        self.num_inference_steps = sampling.steps
        self.guidance_scale = sampling.guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.objective = training_objective(network, min_snr_gamma, flow, loss or LossOptions(), ControlNet)
        decay = partial(ramped_decay, decay=average_decay) if average_decay else None
        self.average = AveragedWeights(self.controlnet, decay)
        self.losses = MeanMetric()

    @classmethod
    def check_before_loading(cls, data: Any, settings: Mapping[str, Any]) -> None:
        """Before the pipeline is loaded, reject data or a network that the ControlNet does not support."""
        name, network = settings["network"]["class_path"].rpartition(".")[2], settings["network"].get("init_args") or {}
        if name == "text_to_image_pipeline":
            name = family_of(network["pipeline"], families(), network["weights"]["local_files_only"]).__name__
        check_family(name)
        if network["weights"]["quantization"]:
            raise ValueError(QUANTIZED)
        reject_prior(data, "ControlNet")
        require_conditions(data, NO_CONDITIONS)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        reject_prior(self.trainer.datamodule, "ControlNet")  # type: ignore[attr-defined]

    @property
    def trained(self) -> nn.Module:
        return self.controlnet

    def on_fit_start(self) -> None:
        self.dropout.prepare(self.network)

    def model_of(self, batch: CaptionedImageBatch, draw: Any) -> ControlledNetwork:
        if "condition" not in batch:
            raise ValueError(NO_CONDITIONS)
        return ControlledNetwork(self.network, self.controlnet, batch["condition"], draw)

    def sampling_inputs(self, batch: CaptionedImageBatch | None, n: int) -> dict[str, Any]:
        condition = self.condition if batch is None else batch["condition"]
        if condition is None:
            raise ValueError("a ControlNet needs a condition image for sampling: set the attribute `condition`")
        image = condition.to(self.device).expand(n, -1, -1, -1)
        return {"pipeline": controlled_pipeline(self.network, self.controlnet), control_of(self.network).image: image}

    def image_columns(self, batch: CaptionedImageBatch, outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, their condition images, and samples for their captions and condition images."""
        columns = super().image_columns(batch, outputs)
        return {"image": columns.pop("image"), "condition": batch["condition"], **columns}

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        if writes:
            with self.average.used_by(self.controlnet):
                self.controlnet.save_pretrained(folder / "controlnet")
