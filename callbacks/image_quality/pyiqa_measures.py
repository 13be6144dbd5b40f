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
    """A measure of single images, computed by a metric of the package pyiqa. For some metrics, pyiqa downloads weights.

    Args:
        name: pyiqa's name of the metric, such as `niqe`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.metric: Any = None

    def __call__(self, image: Tensor, clean: Tensor | None, protocol: EvaluationProtocol) -> Tensor:
        """Measure each image, `[B]`. Images are clipped, and grey images are repeated to three channels."""
        import pyiqa

        try:
            if self.metric is None:
                self.metric = pyiqa.create_metric(self.name, device=image.device)
            if self.metric.metric_mode == "FR" and clean is None:
                raise ValueError("it compares images with clean images, but there are no clean images")
            given = in_range(image, image if clean is None else clean, protocol)
            pair = [each.expand(-1, 3, -1, -1) if each.shape[1] == 1 else each for each in given]
            pair = pair if self.metric.metric_mode == "FR" else pair[:1]
            with torch.no_grad():
                values = [self.metric(*one) for one in zip(*(each.split(1) for each in pair), strict=True)]
        except Exception as error:  # pyiqa has no exception class of its own
            shape = list(image.shape[1:])
            raise ValueError(f"pyiqa: {self.name} cannot measure images of shape {shape}: {sentence(error)}") from error
        return torch.cat([torch.as_tensor(value).reshape(1).double().cpu() for value in values]).to(image.device)


def pyiqa_measures(names: Sequence[str], needed_by: str) -> dict[str, PyIQAMeasure]:
    """Create measures for metrics with given names in pyiqa. If pyiqa is not installed, warn and return no measures.

    Args:
        names: names of the metrics in pyiqa.
        needed_by: name of the class that needs the measures; the warning contains this name.
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
