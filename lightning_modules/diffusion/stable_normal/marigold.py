"""Marigold for surface normals, a baseline that starts from pure noise; it uses the diffusers pipeline.

Source: Ke, Qu, Wang, Metzger, Huang, Li, Obukhov and Schindler, Marigold: Affordable Adaptation of Diffusion-Based
Image Generators for Image Analysis, arXiv 2505.09358.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.arguments import at_least
from lightning_modules.backbones.adaptation import Precision, frozen
from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from lightning_modules.backbones.diffusion.text_to_image import saving_what_is_trained
from lightning_modules.diffusion.stable_normal.normal_steps import NormalSteps
from lightning_modules.method_module import MethodModule


class Marigold(NormalSteps, MethodModule):
    """Estimate surface normals with Marigold, in `test` and `predict`; nothing is trained.

    The axes of the normals are those of this project: x to the right, y up, z towards the viewer.

    Args:
        pipeline: a local folder written by `save_pretrained`, or a name on the Hugging Face Hub, such as
            prs-eth/marigold-normals-v1-1.
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        dtype: precision of U-Net and text encoder, float32 by default; the autoencoder is always float32.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        steps: number of denoising steps; None uses the pipeline's default.
        ensemble: number of estimates, each from different noise, that the diffusers pipeline combines into one.
        resolution: longer side, in pixels, to which images are resized for the networks; 0 keeps their size, and None
            uses the pipeline's default.
        draws: number of estimates per test image, each from different noise; if above 1, the variance of the estimates
            is logged.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if an argument is out of range, the pipeline is of a different class, or the command is `fit`.
    """

    def __init__(
        self,
        pipeline: str,
        variant: str | None = None,
        dtype: Precision | None = None,
        local_files_only: bool = False,
        steps: int | None = None,
        ensemble: int = 1,
        resolution: int | None = None,
        draws: int = 1,
    ) -> None:
        super().__init__()
        at_least(1, steps=steps, ensemble=ensemble, draws=draws)
        at_least(0, resolution=resolution)
        self.pipeline = diffusers_pipeline(
            pipeline,
            ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
            variant=variant,
            dtype=dtype,
            local_files_only=local_files_only,
            part_classes={"_class_name": "MarigoldNormalsPipeline"},
        )
        self.pipeline.set_progress_bar_config(disable=True)
        parts = (self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder)
        self.parts = torch.nn.ModuleList(frozen(part) for part in parts)
        self.steps = steps
        self.ensemble = ensemble
        self.resolution = resolution
        self.draws = draws
        saving_what_is_trained(self)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            raise ValueError("Marigold is not trained here: use test or predict")

    def normals(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Estimate unit normals `[B, 3, H, W]` of images `[B, 3, H, W]` in [0, 1].

        Args:
            image: a batch of images.
            generators: CPU generators of all random numbers, one per image.
        """
        return self.pipeline(
            image,
            num_inference_steps=self.steps,
            ensemble_size=self.ensemble,
            processing_resolution=self.resolution,
            batch_size=len(image) * self.ensemble,
            generator=[each for each in generators for _ in range(self.ensemble)],
            output_type="pt",
        ).prediction.to(image.dtype)
