"""The figure of protection: what an editor makes of images, and of the same images when they are protected."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.files.whole_files import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ProtectionFigure(Callback):
    """In testing draws `figures/protection.png` in the run directory, of the first images.

    The test step gives `protected`, `edit` and `edit_of_protected`, for the first mask and prompt of each image.

    Args:
        num_images: number of images that are shown, at most as many as the first process has in its first batch.

    Raises:
        ValueError: if `num_images` is less than 1.
    """

    def __init__(self, num_images: int = 8) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.num_images = num_images

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or dataloader_idx > 0:
            return
        directory = trainer.log_dir if trainer.loggers else None  # broadcast: every process asks
        if directory is None or not trainer.is_global_zero:
            return
        if not (isinstance(outputs, dict) and {"protected", "edit", "edit_of_protected"} <= outputs.keys()):
            raise TypeError("ProtectionFigure needs a test step that gives `protected`, `edit` and `edit_of_protected`")
        columns = {"image": batch["image"], **outputs}
        shown = {name: columns[name][: self.num_images].float().cpu() for name in ("image", *outputs)}
        kept = batch["editor_keeps"][: self.num_images, 0].cpu()
        save_figure(draw_protection(kept=kept, **shown), Path(directory, "figures", "protection.png"), dpi=120)


def draw_protection(
    image: Tensor, kept: Tensor, protected: Tensor, edit: Tensor, edit_of_protected: Tensor
) -> "Figure":
    """Draws a row for each image: itself, protected, the change, both edits and their difference.

    What the editor keeps is outlined, which a line above says. Change and difference are drawn around grey, on the
    scale of the column's largest, which stands above it.

    Args:
        image: `[N, C, H, W]` in [0, 1], C 1 or 3, on the host; so are the others.
        kept: `[N, H, W]`, bool.
        protected: like `image`.
        edit: the edited image.
        edit_of_protected: the edited protected image.
    """
    from matplotlib.figure import Figure

    columns: dict[str, Tensor] = {"image": image, "protected": protected}
    for name, pictures in (("change", protected - image), ("difference of edits", edit_of_protected - edit)):
        largest = float(pictures.abs().max())
        columns[f"{name}\n±{largest:.2g}"] = 0.5 + pictures / (2 * largest) if largest else pictures + 0.5
    change, difference = list(columns)[2:]
    order = ["image", "protected", change, "edit of image", "edit of protected", difference]
    columns |= {"edit of image": edit, "edit of protected": edit_of_protected}
    figure = Figure(figsize=(1.6 * len(order), 1.6 * len(image) + 0.6), layout="constrained")
    panels = figure.subplots(len(image), len(order), squeeze=False)
    outlined = False
    for column, name in enumerate(order):
        panels[0, column].set_title(name, fontsize=9)
        for row, picture in enumerate(columns[name]):
            panel = panels[row, column]
            panel.set(xticks=[], yticks=[])
            panel.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
            if kept[row].any() and not kept[row].all():
                panel.contour(kept[row].float().numpy(), levels=[0.5], colors="C1", linewidths=0.8)
                outlined = True
    if outlined:
        figure.suptitle("outlined: the region that the editor keeps", fontsize=9, color="C1")
    return figure
