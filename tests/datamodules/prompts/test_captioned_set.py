from datamodules.classification.digits import Digits
from datamodules.editing.images_to_protect import ImagesToProtect
from datamodules.editing.images_with_ellipses import ImagesWithEllipses
from datamodules.interpolation.end_points import PairsOfOneClass
from datamodules.interpolation.images_to_interpolate import ImagesToInterpolate
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses


class Recorded(Digits):
    """Digits that record downloads."""

    fetched = 0

    def fetch_missing(self) -> None:
        self.fetched += 1


def test_datasets_around_a_labelled_dataset_download_its_files() -> None:
    """Files are downloaded before training, as in `LabelledImages`, if the inner dataset has `download: true`."""
    inner, prior = Recorded(), Recorded()
    CaptionedImages(CaptionedClasses(inner), prior=CaptionedClasses(prior)).prepare_data()
    assert (inner.fetched, prior.fetched) == (1, 1)
    ImagesToProtect(ImagesWithEllipses(inner)).prepare_data()
    ImagesToInterpolate(PairsOfOneClass(inner)).prepare_data()
    assert inner.fetched == 3
