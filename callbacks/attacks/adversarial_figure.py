"""The picture of attacks: images, what each attack makes of them, and the difference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Example(NamedTuple):
    """What one attack makes of some images."""

    attack: str
    image: Tensor
    """`[N, C, H, W]`, in [0, 1], on the host."""
    prediction: Sequence[int]


def draw_adversarial(
    clean: Tensor, prediction: Sequence[int], examples: Sequence[Example], class_names: Sequence[str] | None
) -> "Figure":
    """Draws a column for each image: itself, then perturbed image and difference of each attack.

    Classes stand above the images, red where the attack changed them. Differences are drawn around grey, on the scale
    of the row's largest, which stands beside it.

    Args:
        clean: `[N, C, H, W]`, in [0, 1], on the host; without any the figure says so.
        prediction: `[N]`: the classes of the clean images.
        examples: one for each attack, of the same images.
        class_names: by class; None writes numbers.
    """
    from matplotlib.figure import Figure

    count = len(clean)
    if count == 0:
        figure = Figure(figsize=(5, 1))
        figure.text(0.5, 0.5, "no image of the first block is classified rightly", ha="center", va="center")
        return figure
    rows = 1 + 2 * len(examples)
    figure = Figure(figsize=(1.6 + 1.25 * count, 1.45 * rows), layout="constrained")
    panels = figure.subplots(rows, count, squeeze=False)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)

    def draw(row: int, title: str, images: Tensor, classes: Sequence[int] | None) -> None:
        panels[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
        for column, picture in enumerate(_pictures(images)):
            panel = panels[row, column]
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if classes is not None:
                name = str(classes[column]) if class_names is None else class_names[classes[column]]
                changed = classes[column] != prediction[column]
                panel.set_title(name, fontsize=8, color="C3" if changed else "black", pad=3)

    draw(0, "clean", clean, prediction)
    for place, example in enumerate(examples):
        difference = example.image - clean
        largest = float(difference.abs().max())
        draw(2 * place + 1, example.attack, example.image, example.prediction)
        scaled = 0.5 + difference / (2 * largest) if largest else difference + 0.5
        draw(2 * place + 2, f"difference,\n±{largest:.3g}", scaled, None)
    return figure


def _pictures(images: Tensor) -> NDArray[np.float64]:
    """`[N, H, W, 3]` of colour images, and otherwise `[N, H, W]` of the first channel."""
    if images.shape[1] == 3:
        return images.double().permute(0, 2, 3, 1).numpy()
    return images[:, 0].double().numpy()
