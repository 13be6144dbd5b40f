from collections import Counter

import torch

from datamodules.classification.digits import Digits
from datamodules.editing.images_to_protect import ImagesToProtect
from datamodules.editing.images_with_ellipses import ImagesWithEllipses
from datamodules.interpolation.end_points import PairsOfOneClass
from datamodules.interpolation.images_to_interpolate import ImagesToInterpolate
from datamodules.loading.global_batches import Request
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import Captioned, CaptionedClasses, CaptionedRows, ShuffledTags


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


def test_tags_after_the_first_ones_are_shuffled_evenly_by_seed_epoch_and_index() -> None:
    source = Digits().training()
    captions = ["sks, a,b, c"] * len(source.label)
    rows = CaptionedRows(Captioned(source, captions), torch.arange(1200), seed=3, tags=ShuffledTags())
    whole = rows[Request(torch.arange(1200), epoch=0, global_batch_size=1200)]["caption"]
    assert len(set(whole)) == 6  # all orders of three tags
    assert all(
        caption.startswith("sks, ") and sorted(caption.split(", ")) == ["a", "b", "c", "sks"] for caption in whole
    )
    assert all(150 < count < 250 for count in Counter(whole).values())  # 200 expected, standard deviation 13
    assert rows[Request(torch.tensor([700, 5]), 0, 2)]["caption"] == [whole[700], whole[5]]
    assert rows[Request(torch.arange(1200), 1, 1200)]["caption"] != whole
    assert CaptionedRows(rows.captioned, rows.row, tags=ShuffledTags())[Request(torch.arange(2), 0, 2)]["caption"] == [
        *captions[:2]  # evaluation
    ]
    assert ShuffledTags(keep=9).apply(["b, a", "c"], 0, 0, torch.arange(2)) == ["b, a", "c"]
