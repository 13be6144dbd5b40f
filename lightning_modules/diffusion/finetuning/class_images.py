"""Generate class images for prior preservation, on all ranks, once before training. Generation can be resumed."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.distributed.collectives import broadcast, run_seed
from datamodules.files.module_hash import hash_of_module, hash_of_tensors
from datamodules.jobs.resumable_map import ResumableMap
from datamodules.jobs.stores import png_files
from datamodules.prompts.class_images import ClassImages
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.backbones.adapters import adapter_names
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.tasks.writers import levels_of

AT_ONCE = 4
"""Number of images that one pipeline call generates."""
NOISE = 3
"""Index of the random stream that generates an image's initial noise."""


def generate_class_images(network: TextToImage, images: ClassImages, trained_steps: int, **sampling: Any) -> None:
    """Generate and write the missing class images; this function must be called on every rank.

    An image depends only on its index, on the seed and on the settings, which the folder's `settings.json` records. The
    number of ranks and interruptions have no effect on it.

    Args:
        network: text-to-image model before fine-tuning, in evaluation mode.
        images: definition of the class images: folder, prompt, number and size.
        trained_steps: number of training steps that the model has already taken.
        sampling: the sampling arguments `num_inference_steps` and `guidance_scale`.
    """
    store = png_files(Path(images.folder))
    missing = broadcast(len(store.missing(images.keys)))
    if not missing:
        return
    if trained_steps:
        raise ValueError(
            f"data.prior: {missing} of {images.count} class images in {images.folder} are missing, but the resumed "
            f"model is already fine-tuned: restore the images, or start a new run"
        )
    size = images.image_shape[1]
    text = network.text_encoders
    settings = {
        "prompt": images.prompt,
        "image_size": size,
        "seed": run_seed(),
        "network": hash_of_tensors(_frozen(network.network)),
        "vae": hash_of_module(network.vae),
        "text_encoders": hash_of_tensors(_frozen(text)) if network.trains_text else hash_of_module(text),
        "scheduler": type(network.scheduler).__name__,
        **sampling,
    }
    like = torch.empty(network.latent_shape(1, size, size), device=next(network.network.parameters()).device)

    def compute(numbers: list[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        for start in range(0, len(numbers), AT_ONCE):
            part = numbers[start : start + AT_ONCE]
            generators = [generator_of(run_seed(), number, NOISE) for number in part]
            noise = sample_like(like.expand(len(part), -1, -1, -1), torch.randn, generators)
            prompts = network.encode_prompts([images.prompt] * len(part))
            generated: Tensor = network.generate(prompts, noise, **sampling, generator=generators)
            yield from zip(part, levels_of(generated, 255).cpu().numpy(), strict=True)

    remedy, file = "set a different data.prior.folder", images.folder / "settings.json"
    # A comparison trains several runs at once with the same class images: all but the first wait for them.
    with ResumableMap(store, settings, file, remedy, name="class images", patience=math.inf) as job:
        job.run(images.keys, compute)


def _frozen(network: nn.Module) -> dict[str, Any]:
    """Return the weights to hash: all but those of adapters, which have no effect before training."""
    added = adapter_names(network)
    return {name: each for name, each in network.state_dict().items() if name not in added}
