"""Marigold for surface normals: a baseline that runs the diffusers pipeline, starting from pure noise.

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
    """Estimate surface normals with a pretrained Marigold pipeline, in `test` and `predict`.

    The normals have the axes of this project: x to the right, y up, and z towards the viewer.

    Args:
        pipeline: local folder written by `save_pretrained`, or name on the Hugging Face Hub, such as
            prs-eth/marigold-normals-v1-1.
        variant: variant of the weight files, such as fp16; None loads the files without a variant.
        dtype: precision of the U-Net and the text encoder; None means float32. The autoencoder is always float32.
        local_files_only: never download files; a pipeline given by name must be in the Hugging Face cache.
        steps: number of denoising steps; None uses the pipeline's default.
        ensemble: number of estimates from different noise that the diffusers pipeline combines into one estimate.
        resolution: length, in pixels, to which the longer side of images is resized for the networks; 0 keeps the size
            of images, and None uses the pipeline's default.
        draws: number of estimates for each test image, each from different noise. Above 1, the variance of their errors
            is also logged.
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
        """Estimate the unit normals of images; the result is `[B, 3, H, W]`.

        Args:
            image: images in [0, 1], `[B, 3, H, W]`.
            generators: random generators on the CPU, one for each image, from which all random numbers are sampled.
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
