"""Comparison of an editor's results on protected and on given images.

Peak signal-to-noise ratio and structural similarity are of both edits, and similarities of each edit and its prompt
(`clip_similarity.py`). The lower they are, the better is the protection.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from lightning_modules.robustness.diffusion_guard.clip_similarity import CLIP, directional_similarity

UNSEEN = "_unseen"
"""Ending of metrics for masks that protection did not know."""


class EditMeans(nn.ModuleDict):
    """Means over images, masks and prompts, by name.

    Args:
        clip: whether edits are compared with their prompts.
    """

    def __init__(self, clip: bool) -> None:
        compared = ["edit_psnr", "edit_psnr_repainted", "edit_ssim"]
        for name in ("clip_similarity", "clip_directional_similarity") if clip else ():
            compared += [name, f"{name}_unprotected"]
        names = [*compared, *(f"{name}{UNSEEN}" for name in compared), "noise_norm", "noise_norm_unprotected"]
        super().__init__({name: MeanMetric() for name in names})

    def mean(self, name: str) -> MeanMetric:
        """Give one of the means by its name."""
        metric = self[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def measure(self, edit_of_protected: Tensor, edit: Tensor, repainted: Tensor, ending: str) -> None:
        """Add both edits of some images `[B, C, H, W]`, repainted where `repainted`, `[B, 1, H, W]`, is 1."""
        psnr = peak_signal_noise_ratio(edit_of_protected, edit, 1.0, reduction="none", dim=(1, 2, 3))
        self.mean(f"edit_psnr{ending}").update(psnr)
        self.mean(f"edit_psnr_repainted{ending}").update(psnr_where(edit_of_protected, edit, repainted))
        self.mean(f"edit_ssim{ending}").update(ssim(edit_of_protected, edit))

    def compare(
        self, clip: CLIP, image: Tensor, edit: Tensor, prompts: list[str], sources: list[str] | None, ending: str
    ) -> None:
        """Add edited images and their prompts.

        Args:
            clip: embeds both.
            image: images before, `[B, C, H, W]` in [0, 1].
            edit: the edited images.
            prompts: B of them.
            sources: texts that say what the images showed before, which the direction needs.
            ending: of the metrics' names.
        """
        edited, asked = clip.images(edit), clip.texts(prompts)
        self.mean(f"clip_similarity{ending}").update((edited * asked).sum(dim=1))
        if sources is not None:
            direction = directional_similarity(edited, clip.images(image), asked, clip.texts(sources))
            self.mean(f"clip_directional_similarity{ending}").update(direction)


def psnr_where(edit: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Compute the PSNR of images in [0, 1] over the pixels where `where`, `[B, 1, H, W]`, is 1: `[B]`, in dB.

    It is infinite where the images are equal, and NaN where there is no such pixel.
    """
    error = ((edit - other).square() * where).sum(dim=(1, 2, 3))
    return -10 * torch.log10(error / (edit.shape[1] * where.sum(dim=(1, 2, 3))))


def ssim(edit: Tensor, other: Tensor) -> Tensor:
    """Compute the SSIM of images `[B, C, H, W]` in [0, 1], of more than 5 x 5 pixels, with reflected borders: `[B]`."""
    found = structural_similarity_index_measure(edit, other, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def prompted(prompts: Sequence[Sequence[str]]) -> list[tuple[list[int], list[str]]]:
    """List, for the first, second, ... prompt of each image, the rows that have it, and the prompts."""
    rounds = []
    for number in range(max(map(len, prompts), default=0)):
        rows = [row for row, of_image in enumerate(prompts) if len(of_image) > number]
        rounds.append((rows, [prompts[row][number] for row in rows]))
    return rounds
