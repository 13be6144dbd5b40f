"""Grids of images that a text-to-image model generates for the same prompts and seeds during training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from callbacks.drawing.logged_pictures import log_picture
from callbacks.drawing.samples import save_rows
from callbacks.generation.generated_blocks import sampled_bytes
from callbacks.generation.image_generators import text_model
from callbacks.generation.image_requests import read_prompts
from datamodules.arguments import at_least, within
from datamodules.distributed.collectives import all_gather, rank, world_size
from datamodules.prompts.prompt_sets import MOST_NUMBER
from lightning_modules.backbones.diffusion.text_to_image import TextToImage
from lightning_modules.interfaces import ConditionedGenerator, PromptedGenerator, SeededRows
from lightning_modules.training.evaluation_mode import in_evaluation_mode


class PromptGrid(Callback):
    """Every `every_n_steps` training steps, generate images for the same prompts and seeds, and draw them in a grid.

    Each row shows one prompt, and each column one seed. The first grid shows the model before training. Grids are
    written to `figures/<name>/step_<step>.png` in the run directory, and sent to the loggers that accept images.
    Without a logger, nothing is generated. Images have the size on which the model was trained. The module samples with
    the weights that it uses in validation, such as averaged weights. Training is not affected. The work is sharded over
    ranks, and the grid is the same for any number of ranks.

    Args:
        prompts: texts, or a prompt file (.txt with one prompt per line, .jsonl, .json or .csv); None uses the module's
            own `prompts`.
        seeds: seeds for each prompt; None uses `num_seeds` successive seeds, starting with `seed`.
        seed: first seed; used only if `seeds` is None.
        num_seeds: number of seeds; used only if `seeds` is None.
        every_n_steps: number of optimizer steps between two grids.
        num_inference_steps: number of sampling steps; None uses the module's own setting.
        guidance_scale: scale of classifier-free guidance; None uses the module's own setting.
        batch_size: number of images that a rank generates as one batch.
        image_size: maximum height and width of an image in the grid, in pixels; larger images are downscaled. With
            None, no image is downscaled.
        name: name of the folder in which grids are saved, and name of the grids in loggers.
    """

    def __init__(
        self,
        prompts: list[str] | str | None = None,
        seeds: list[int] | None = None,
        seed: int = 0,
        num_seeds: int = 4,
        every_n_steps: int = 500,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 4,
        image_size: int | None = 512,
        name: str = "prompts",
    ) -> None:
        at_least(1, num_seeds=num_seeds, every_n_steps=every_n_steps, batch_size=batch_size)
        at_least(1, num_inference_steps=num_inference_steps, image_size=image_size)
        at_least(0, guidance_scale=guidance_scale)
        self.seeds = list(range(seed, seed + num_seeds)) if seeds is None else list(seeds)
        if not self.seeds or prompts in ([], ""):
            raise ValueError(f"{'prompts' if self.seeds else 'seeds'} must not be empty")
        if Path(name).name != name:
            raise ValueError(f"name must be the name of a folder, got {name!r}")
        for place, each in enumerate(self.seeds):
            within(0, MOST_NUMBER, **{f"seeds[{place}]": each})
        self.prompts = prompts
        self.every_n_steps = every_n_steps
        self.settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        self.batch_size = batch_size
        self.image_size = image_size
        self.name = name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        module: Any = pl_module
        prompted = isinstance(module, PromptedGenerator) and isinstance(module, SeededRows)
        if not (prompted and module.takes_prompts):
            raise TypeError(
                f"PromptGrid needs a module that generates each image from a text and its own seed, such as "
                f"DiffusionFineTuning with a text-to-image model, got {type(module).__name__}"
            )
        if isinstance(module, ConditionedGenerator):
            raise TypeError(
                f"PromptGrid cannot show {type(module).__name__}, which needs condition images: leave PromptGrid out; "
                f"ImageGrid shows samples for held-out conditions"
            )
        if getattr(text_model(module), "frame_multiple", None) is not None:
            raise TypeError("PromptGrid cannot show clips: leave it out; ImageGrid shows frames of held-out clips")
        given = [self.prompts] if isinstance(self.prompts, str) else self.prompts
        self._texts = list(module.prompts) if given is None else [each.caption for each in read_prompts(given, 1)]
        if not self._texts:
            raise ValueError(
                f"PromptGrid: prompts must be given, because {type(module).__name__} has no prompts of its own"
            )
        if isinstance(model := text_model(module), TextToImage):
            model.keep_embedded(self._texts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if self._step == 0:
            self._draw(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:  # the step does not change in batches whose gradients are accumulated
            self._step = trainer.global_step
            if self._step % self.every_n_steps == 0:
                self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        directory = trainer.log_dir if trainer.loggers else None  # a broadcast, so every rank must read it
        if directory is None:
            return
        with in_evaluation_mode(trainer, pl_module), sampling_with(pl_module, self.settings):
            blocks = self._blocks(pl_module)
        if not trainer.is_global_zero:
            return
        images = torch.cat([blocks[number] for number in sorted(blocks)])
        path = Path(directory, "figures", self.name, f"step_{self._step:06d}.png")
        save_rows(
            images.unflatten(0, (len(self._texts), -1)), self._texts, [f"seed {each}" for each in self.seeds], path
        )
        log_picture(trainer, path, self.name)

    def _blocks(self, module: Any) -> dict[int, Tensor]:
        """Generate this rank's blocks of images, and return the blocks of all ranks by number.

        All ranks must generate the same number of blocks, because the weights may be sharded. Surplus blocks are
        discarded.
        """
        requests = [(text, seed) for text in self._texts for seed in self.seeds]
        blocks = [requests[start : start + self.batch_size] for start in range(0, len(requests), self.batch_size)]
        own = {}
        for start in range(0, len(blocks), world_size()):
            number = min(start + rank(), len(blocks) - 1)
            module.prompts = [text for text, _ in blocks[number]]
            images = sampled_bytes(module, len(blocks[number]), [seed for _, seed in blocks[number]]).cpu()
            own[number] = self._reduce(images)
        return {number: images for part in all_gather(own) for number, images in part.items()}

    def _reduce(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        scale = 1 if self.image_size is None else min(1, self.image_size / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        return images if scale == 1 else transforms.resize(images, size, antialias=True)


@contextmanager
def sampling_with(module: Any, settings: dict[str, Any]) -> Iterator[None]:
    """Context manager that applies the settings that are not None; on exit, it restores old settings and prompts."""
    own = {name: getattr(module, name) for name in ("prompts", *settings)}
    try:
        for name, value in settings.items():
            if value is not None:
                setattr(module, name, value)
        yield
    finally:
        for name, value in own.items():
            setattr(module, name, value)
