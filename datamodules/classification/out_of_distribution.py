"""DataModule for out-of-distribution detection: a dataset, and sets of images to tell apart from its test images."""

import re
from typing import Any

from torch.utils.data import DataLoader

from datamodules.classification.image_sets import OtherImages
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.labelled_set import LabelledSet

IN_DISTRIBUTION = "in_distribution"


class OutOfDistribution(LabelledImages):
    """Labelled images and out-of-distribution sets, with one test DataLoader per set.

    Test batches have the key `origin`. Its value is 0 for images of the dataset, and i for images of the i-th
    out-of-distribution set. `origin_names` lists the names of all sets. Out-of-distribution images have label -1.
    Training, validation, prediction and all other arguments are as in `LabelledImages`.

    Args:
        ood: dictionary of out-of-distribution sets. The keys are the names used in metrics. The images must have the
            same shape as those of the dataset.
    """

    def __init__(self, ood: dict[str, OtherImages], **arguments: Any) -> None:
        super().__init__(**arguments)
        if not ood:
            raise ValueError("ood must name at least one set, got {}")
        for name in ood:
            if not re.fullmatch(r"[\w.-]+", name) or name == IN_DISTRIBUTION:
                raise ValueError(
                    f"ood: a name must consist of letters, digits, '_', '.' and '-', and not be {IN_DISTRIBUTION}; "
                    f"got {name!r}"
                )
        self.ood = ood
        self.sets: list[LabelledSet] = []

    @property
    def origin_names(self) -> list[str]:
        """Names of the dataset and of the out-of-distribution sets, indexed by `origin`."""
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
