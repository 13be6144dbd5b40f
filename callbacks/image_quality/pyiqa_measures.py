"""Image metrics of the package pyiqa, such as NIQE, NRQM, PI, BRISQUE and LPIPS."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.image_quality.measures import in_range
from datamodules.files.limits import sentence
from lightning_modules.metrics.image_quality import EvaluationProtocol


class PyIQAMeasure:
    """A metric of pyiqa as a measure of single images. pyiqa downloads the weights of some metrics.

    Args:
        name: name in pyiqa, such as `niqe`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.metric: Any = None

    def __call__(self, image: Tensor, clean: Tensor | None, protocol: EvaluationProtocol) -> Tensor:
        """Measure each image, `[B]`. Images are clipped. Grey images are repeated to three channels.

        Raises:
            ValueError: if pyiqa has no such metric, or the metric cannot measure images of this size, or it needs a
                clean image and there is none.
        """
        import pyiqa

        try:
            if self.metric is None:
                self.metric = pyiqa.create_metric(self.name, device=image.device)
            if self.metric.metric_mode == "FR" and clean is None:
                raise ValueError("it compares with clean images, and there are none")
            given = in_range(image, image if clean is None else clean, protocol)
            pair = [each.expand(-1, 3, -1, -1) if each.shape[1] == 1 else each for each in given]
            pair = pair if self.metric.metric_mode == "FR" else pair[:1]
            with torch.no_grad():
                values = [self.metric(*one) for one in zip(*(each.split(1) for each in pair), strict=True)]
        except Exception as error:  # pyiqa has no class of errors
            shape = list(image.shape[1:])
            raise ValueError(f"pyiqa: {self.name} cannot measure images of shape {shape}: {sentence(error)}") from error
        return torch.cat([torch.as_tensor(value).reshape(1).double().cpu() for value in values]).to(image.device)


def pyiqa_measures(names: Sequence[str], needed_by: str) -> dict[str, PyIQAMeasure]:
    """Create measures by the names of their metrics. Warn and return none if pyiqa is not installed.

    Args:
        names: names in pyiqa.
        needed_by: class that needs the measures, for the warning.
    """
    if not names:
        return {}
    try:
        import pyiqa  # noqa: F401 - takes seconds, so imported only where it is needed
    except ModuleNotFoundError:
        rank_zero_warn(f"{needed_by}: metrics without an installed package are left out: {', '.join(names)} "
                       f"(pip install 'noiseworks[no-reference]')")  # fmt: skip
        return {}
    return {name: PyIQAMeasure(name) for name in names}
