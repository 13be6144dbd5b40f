"""A data set together with sets of other images, which a detector is to tell from its test images."""

import re
from typing import Any

from torch.utils.data import DataLoader

from datamodules.classification.image_sets import OtherImages
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.labelled_set import LabelledSet

IN_DISTRIBUTION = "in_distribution"


class OutOfDistribution(LabelledImages):
    """Labelled images that are tested together with sets of out-of-distribution images, a loader each.

    Test batches have the key `origin`: 0 for the set's own images, and otherwise the position of an out-of-distribution
    set, counted from 1; `origin_names` names them. Out-of-distribution images have the label -1. Training, validation
    and prediction are those of `LabelledImages`, which takes the other arguments.

    Args:
        ood: sets of out-of-distribution images of the same shape, by the names that metrics give them.

    Raises:
        ValueError: if there is no other set, or a name has other characters than letters, digits, `_`, `.` and `-`.
    """

    def __init__(self, ood: dict[str, OtherImages], **arguments: Any) -> None:
        super().__init__(**arguments)
        if not ood:
            raise ValueError("ood must name at least one set, got {}")
        for name in ood:
            if not re.fullmatch(r"[\w.-]+", name) or name == IN_DISTRIBUTION:
                raise ValueError(
                    f"ood: names must be of letters, digits, '_', '.' and '-', and not {IN_DISTRIBUTION}, got {name!r}"
                )
        self.ood = ood
        self.sets: list[LabelledSet] = []

    @property
    def origin_names(self) -> list[str]:
        """Name what each value of `origin` stands for."""
        return [IN_DISTRIBUTION, *self.ood]

    def prepare_data(self) -> None:
        super().prepare_data()
        for images in self.ood.values():
            images.fetch_missing()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "test" and not self.sets:
            assert self.test_set is not None
            self.sets = [LabelledSet(self.test_set.source, origin=0)]
            for origin, (name, images) in enumerate(self.ood.items(), start=1):
                try:
                    source = images.of_no_class(self.image_shape, self.seed)
                except (FileNotFoundError, ValueError) as error:
                    raise type(error)(f"ood.{name}: {error}") from error
                self.sets.append(LabelledSet(source, origin=origin))

    def test_dataloader(self) -> list[DataLoader]:  # type: ignore[override]
        return [self.evaluation_loader(images) for images in self.sets]

    def predict_dataloader(self) -> DataLoader:
        return super().test_dataloader()
