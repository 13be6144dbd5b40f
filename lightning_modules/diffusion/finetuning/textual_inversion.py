"""Learn the embedding v of a new word from a few images; all weights of the diffusion model are frozen.

    v* = argmin_v E |f(z_t, t, c(y, v)) - target|^2

Here y is a prompt that contains the new word, and c(y, v) is the embedding of this prompt. The vector v is initialised
with the embedding of an existing word.

Source: Gal, Alaluf, Atzmon, Patashnik, Bermano, Chechik and Cohen-Or, An Image is Worth One Word: Personalizing
Text-to-Image Generation using Textual Inversion, ICLR 2023, arXiv 2208.01618.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torchmetrics import MeanMetric

from datamodules.arguments import at_least, positive
from datamodules.batches import CaptionedImageBatch
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.backbones.diffusion.guidance import Sampling
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.backbones.quantization import prepare_for_ddp
from lightning_modules.diffusion.finetuning.data_checks import check_data, reject_prior
from lightning_modules.diffusion.finetuning.learned_tokens import (
    Property,
    add_tokens,
    check_captions,
    check_pipeline_files,
    save_tokens,
    templates_of,
)
from lightning_modules.diffusion.finetuning.objectives import FlowMatching, LossOptions, training_objective
from lightning_modules.diffusion.finetuning.steps import FineTuningSteps
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.averages import AveragedWeights
from lightning_modules.optim.optimizers import adamw, constant, trainable_parameters


class TextualInversion(FineTuningSteps, MethodModule):
    """Learn the embedding of a new word from images; all weights of the pipeline are frozen.

    If the images have no captions, each image receives a random template as its prompt in each step. After training,
    the embedding is saved to `pipeline/` in the run directory, in the format of diffusers' `load_textual_inversion`.
    Validation and test work as in `DiffusionFineTuning`.

    Args:
        network: a frozen `TextToImage` (Stable Diffusion or SDXL) or `Flux`; the new word is added to all of its CLIP
            text encoders.
        placeholder_token: the new word as it appears in prompts, such as `<my-cat>`. It must not be in the pipeline's
            vocabulary.
        initializer_token: existing word that is a single token, such as `cat`. Its embedding initialises the new
            embeddings.
        num_vectors: number of tokens that make up the new word; each token has its own embedding.
        templates: prompts for images without captions, in which `{}` marks the place of the new word; `object` and
            `style` use the default templates for a subject and for a style.
        min_snr_gamma: gamma of the Min-SNR weights; None gives all timesteps the same weight. Must be None for
            flow-matching models.
        flow: distribution of times and loss weights of flow matching; None uses the defaults of `FlowMatching`. Allowed
            only for flow-matching models.
        prompts: texts that `sample` cycles through; None uses one prompt, which asks for a photo of the new word.
        sampling: number of steps and guidance scale of sampling.
        optimizer: optimizer of the new embeddings.
        lr_scheduler: learning-rate schedule, stepped every epoch.
        loss: settings of offset noise and mask weights; None uses the defaults of `LossOptions`.
    """

    needs_captions: ClassVar[bool] = False

    def __init__(
        self,
        network: TextToImage,
        placeholder_token: str,
        initializer_token: str,
        num_vectors: int = 1,
        templates: Property | list[str] = "object",
        min_snr_gamma: float | None = None,
        flow: FlowMatching | None = None,
        prompts: Sequence[str] | None = None,
        sampling: Sampling = Sampling(),
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
        loss: LossOptions | None = None,
    ) -> None:
        super().__init__()
        positive(min_snr_gamma=min_snr_gamma)
        at_least(1, num_vectors=num_vectors)
        self.templates = templates_of(templates)
        if trainable_parameters(network) or "text_encoders" not in dict(network.named_children()):
            raise ValueError(
                "network must have tuning: frozen and offload_text_encoders: false, because only embeddings are trained"
            )
        self.embeddings = add_tokens(network, placeholder_token, initializer_token, num_vectors)
        self.network = network
        self.placeholder_token = placeholder_token
        self.prompts = prompts or [f"a photo of {placeholder_token}"]
        self.takes_prompts = self.generator_per_image = True
        self.num_inference_steps = sampling.steps
        self.guidance_scale = sampling.guidance_scale
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.objective = training_objective(network, min_snr_gamma, flow, loss or LossOptions(), TextualInversion)
        self.average = AveragedWeights(network, lambda update: 0.0)  # decay 0: the last step's embeddings
        self.losses = MeanMetric()

    @classmethod
    def check_before_loading(cls, data: Any, settings: Mapping[str, Any]) -> None:
        """Reject unsuitable captions, pipelines and tokens before the pipeline is loaded.

        Args:
            data: `CaptionedImages` DataModule, whose `setup` has not been called yet.
            settings: arguments of the constructor; objects are still configs, with `class_path` and `init_args`.
        """
        reject_prior(data, "TextualInversion")
        token = settings["placeholder_token"]
        check_captions(data.images.training().captions if data.images.has_captions() else None, token)
        network = settings["network"].get("init_args") or {}
        check_pipeline_files(network, token, settings["initializer_token"], settings["num_vectors"])

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        check_data(self.network, data, needs_captions=False)
        reject_prior(data, "TextualInversion")
        for each in (getattr(data, name, None) for name in ("train_set", "validation_set")):
            check_captions(getattr(each, "captions", None), self.placeholder_token)
        prepare_for_ddp(self)

    def prompts_of(self, batch: CaptionedImageBatch) -> Prompts:
        """Embed a batch's captions, or templates if there are none; gradients flow back to the new embeddings."""
        texts = batch.get("caption")
        if texts is None:
            # The indices of the templates are sampled on the CPU, because the texts are on the CPU. This avoids waiting
            # for the device.
            count = len(batch["image"])
            chosen = (
                sample_rows(partial(torch.randint, len(self.templates)), (count,), "cpu") if self.training else None
            )
            places = [0] * count if chosen is None else chosen.tolist()
            texts = [self.templates[place].replace("{}", self.placeholder_token) for place in places]
        return self.network.embed(texts, self.device)

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        if writes:
            save_tokens(self.embeddings, self.placeholder_token, folder)
