"""Sampling with One More Step for prompts, and the module's attributes that code outside this package reads."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from datamodules.randomness.generators import sample_integers
from lightning_modules.interfaces import Table
from lightning_modules.training.evaluation_mode import evaluating
from lightning_modules.training.requirements import require_trainer

Start = Literal["one_more_step", "plain", "offset_noise", "zero_terminal_snr", "oracle"]


class Prompted:
    """Mixin for a LightningModule that samples images for prompts or captions."""

    needs_captions: ClassVar[bool] = True
    plain_start: ClassVar[Start] = "plain"
    takes_prompts: ClassVar[bool] = True
    generator_per_image: ClassVar[bool] = True
    prompts: Sequence[str] = ()
    """Texts that `sample` cycles through. If there are none, `sample` uses captions of the test set."""
    tables: Mapping[str, Table] = {}
    step_prompt: str | None = None
    """Text for One More Step itself; None uses the texts of the diffusion model."""

    def step_texts(self, texts: Sequence[str]) -> Sequence[str]:
        """Return One More Step's own texts for a batch in which `texts` are the diffusion model's texts."""
        return texts if self.step_prompt is None else [self.step_prompt] * len(texts)

    def sample(self: Any, n: int, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Sample n images in [0, 1], for `prompts` in turn. If there are none, use random captions of the test set."""
        if self.start == "oracle":
            raise ValueError("model.start: oracle needs real images, so it cannot sample for FID: use another start")
        data = require_trainer(
            self, "sample needs the image size and the captions", "generate(texts, image_shape)"
        ).datamodule
        captions = self.prompts or data.test_set.captions or [""]
        places = sample_integers(len(captions), n, generator)
        texts = [captions[place % len(captions)] for place in (range(n) if self.prompts else places.tolist())]
        return self.generate(texts, data.image_shape, generator)

    def generate(
        self: Any,
        texts: Sequence[str],
        image_shape: Sequence[int],
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Tensor:
        """Sample an image in [0, 1] for each of B texts, `[B, C, H, W]`.

        This needs no Trainer: `OneMoreStep(network, model, text_encoder).generate(["a dark room"], (3, 64, 64))`.

        Args:
            texts: B texts.
            image_shape: C, H and W of the images.
            generator: CPU generator, or one for each image, whose numbers seed the images, together with the seed of
                the run; None uses PyTorch's global generator.
        """
        index = sample_integers(2**31, len(texts), generator)
        image = torch.zeros(len(texts), *image_shape, device=self.device)
        with evaluating(self):
            return self.sample_from({"image": image, "caption": texts, "index": index, "global_batch_size": len(texts)})
