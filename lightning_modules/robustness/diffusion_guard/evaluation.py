"""Test steps of DiffusionGuard: edit protected and original images with one or two editors."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.batches import ProtectedImageBatch
from datamodules.randomness.generators import generator_of
from lightning_modules.interfaces import ImageColumn
from lightning_modules.robustness.diffusion_guard.attack import first_step, noise_norm
from lightning_modules.robustness.diffusion_guard.editing import TRANSFER, UNSEEN, group_by_prompt
from lightning_modules.robustness.diffusion_guard.inpainting import Inpainter
from lightning_modules.robustness.diffusion_guard.purification import Purification

PROTECTING, EDITING, MEASURING = 0, 1, 2  # keys that separate the random numbers of an image by purpose


def union(batch: ProtectedImageBatch) -> Tensor:
    """Compute, for each image, the mask of the union of its regions: `[B, 1, H, W]`, in the dtype of the images."""
    return batch["regions"].any(dim=1, keepdim=True).to(batch["image"].dtype)


def normal(inpainter: Inpainter, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Sample standard normal noise of the shape of z, with one generator for each image."""
    shape = inpainter.noise_shape(image)[1:]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(image)


def compared_in(image: Tensor) -> torch.dtype:
    """Return the dtype in which edits are compared: float32, or the images' dtype if that is more precise."""
    return torch.promote_types(image.dtype, torch.float32)


def edited_by(
    inpainter: Inpainter,
    purification: Purification | None,
    keep: Tensor,
    prompts: Sequence[str],
    noise: Tensor,
    image: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Purify images `[B, C, H, W]`, if a purification is given, and edit them.

    Returns:
        The edits, the purified images and the purified masks.
    """
    if purification is not None:
        image, keep = purification(image, keep)
    return inpainter.edit(image, keep, prompts, noise).to(compared_in(image)), image, keep


class EditingSteps:
    """Test steps of `DiffusionGuard`: protected and original images are edited with the same noise and prompts."""

    def on_test_start(self: Any) -> None:
        for metric in map(self.metrics.mean, self.metrics):  # means in half precision have only three digits
            metric.set_dtype(torch.promote_types(metric.dtype, torch.float32))

    def test_step(self: Any, batch: ProtectedImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, index = batch["image"], batch["index"]
        if self._clip is not None and batch_idx == 0 and not any(map(any, batch["prompt"])):
            raise ValueError("clip needs prompts to compare edits with, but the data have none")
        own = self.protect(image, batch["regions"], index)
        guarded = {f"_{name}": self.protect(image, batch["regions"], index, of) for name, of in self.defences.items()}
        image = image.to(self._arithmetic(image))
        guarded = {name: each.to(image.dtype) for name, each in {"": own, **guarded}.items()}
        inpainters = [self.inpainter] if self.editor is None else [self.inpainter, self.editor]
        noises = [normal(each, image, [generator_of(self.seed, int(i), EDITING) for i in index]) for each in inpainters]
        ways = [("", self.inpainter, noises[0], None)]
        ways += [(f"_{name}", self.inpainter, noises[0], each) for name, each in self.purification.items()]
        ways += [] if self.editor is None else [(TRANSFER, self.editor, noises[1], None)]
        shown: dict[str, Tensor] = {}
        for number, keep in enumerate(batch["editor_keeps"].to(image).split(1, dim=1)):
            unseen = "" if number == 0 else UNSEEN
            for rows, prompts in group_by_prompt(batch["prompt"]):
                sources = [batch["source_prompt"][row] for row in rows] if "source_prompt" in batch else None
                for way, inpainter, noise, purify in ways:
                    ending = f"{way}{unseen}"
                    edited = partial(edited_by, inpainter, purify, keep[rows], prompts, noise[rows])
                    edit, source, kept = edited(image[rows])
                    compare = None if self._clip is None else partial(self.metrics.compare, self._clip, source)
                    if compare is not None:
                        compare(edit, prompts, sources, f"_unprotected{ending}")
                    for defence, each in guarded.items():
                        edit_of_guarded, *_ = edited(each[rows])
                        shown = shown or {"protected": guarded[""], "edit": edit, "edit_of_protected": edit_of_guarded}
                        self.metrics.measure(edit_of_guarded, edit, 1 - kept, f"{defence}{ending}")
                        if compare is not None:
                            compare(edit_of_guarded, prompts, sources, f"{defence}{ending}")
        measured = [generator_of(self.seed, int(i), MEASURING) for i in index]
        noise, draw = normal(self.inpainter, image, measured), normal(self.inpainter, image, measured)
        for name, each in {**guarded, "_unprotected": image}.items():
            predicted = first_step(self.inpainter, each, union(batch).to(image), noise, draw, self.first_timestep)
            self.metrics.mean(f"noise_norm{name}").update(noise_norm(predicted.to(compared_in(image))))
        return shown

    def image_columns(self, batch: ProtectedImageBatch, outputs: dict[str, Tensor]) -> dict[str, Tensor | ImageColumn]:
        """Return the columns of the logged figure, with the edits for the first mask and the first prompt."""
        image = batch["image"].float()
        protected, edit, edit_of_protected = (outputs[key] for key in ("protected", "edit", "edit_of_protected"))
        return {
            "image": image,
            "protected": protected,
            "change": ImageColumn(protected - image, difference=True),
            "edit of image": edit,
            "edit of protected": edit_of_protected,
            "difference of edits": ImageColumn(edit_of_protected - edit, difference=True),
            "the region that the editor keeps": batch["editor_keeps"][:, 0],
        }

    def on_test_epoch_end(self: Any) -> None:
        for name in self.metrics:
            if self.metrics.mean(name).update_called:
                self.log(f"test/{name}", self.metrics.mean(name))
