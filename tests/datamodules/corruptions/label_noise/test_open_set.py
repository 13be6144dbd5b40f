import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import UNKNOWN, ImageSet, ImagesInMemory, OtherImages
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.corruptions.label_noise import Symmetric
from datamodules.corruptions.label_noise.open_set import OpenSetLabelNoise, replacements
from datamodules.loading import Loading


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), rate=st.floats(0, 0.9), num=st.integers(1, 300))
def test_replacements_are_drawn_once_each_and_follow_the_seed(seed: int, rate: float, num: int) -> None:
    rows, others = replacements(num, 400, rate, seed)
    assert len(rows) == len(others) == len(others.unique()) == len(rows.unique())
    assert ((others >= 0) & (others < 400)).all()
    again, _ = replacements(num, 400, rate, seed)
    assert torch.equal(again, rows)


def test_each_image_is_replaced_with_the_stated_probability() -> None:
    counts = torch.zeros(50)
    for seed in range(400):
        counts[replacements(50, 60, 0.3, seed)[0]] += 1
    assert abs(counts.mean() / 400 - 0.3) < 4 * (0.21 / 20000) ** 0.5
    assert ((counts / 400 - 0.3).abs() < 5 * (0.21 / 400) ** 0.5).all()


class Numbered(OtherImages):
    """Images with a constant pixel value of 100 plus their number, so that each has a different brightness."""

    def __init__(self, num: int = 40, data_range: int = 255) -> None:
        self.num, self.data_range = num, data_range

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImagesInMemory:
        image = (100 + torch.arange(self.num, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, *image_shape)
        return ImagesInMemory(image.clone(), torch.full((self.num,), UNKNOWN), self.data_range)


class Counted(ImageSet):
    """Fifty images whose pixel value is their number."""

    num_classes, image_shape = 5, (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return ImagesInMemory(
            torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2), torch.arange(50) % 5
        )

    test = training


def mixed(others: OtherImages, noise_rate: float, drawn: int, seed: int | None = None) -> ImagesInMemory:
    return OpenSetLabelNoise(Counted(), others, noise_rate, seed).prepare(drawn, torch.device("cpu")).training()


def test_replaced_images_keep_their_labels_and_are_of_no_class() -> None:
    given_source, found = Counted().training(), mixed(Numbered(), 0.4, drawn=5)
    foreign = found.image[:, 0, 0, 0] >= 100
    assert 8 < foreign.sum() < 32
    assert torch.equal(found.label, given_source.label)
    assert torch.equal(found.clean_label, torch.where(foreign, -1, found.label))
    assert torch.equal(found.image[~foreign], given_source.image[~foreign])


def test_other_ranges_of_values_are_rescaled_and_too_few_images_are_refused() -> None:
    bright = mixed(Numbered(data_range=200), 0.4, drawn=5, seed=1)
    plain = mixed(Numbered(), 0.4, drawn=7, seed=1)
    foreign = plain.image[:, 0, 0, 0] >= 100
    expected = (plain.image[foreign].double() * 255 / 200).round()
    assert torch.equal(bright.image[foreign].double(), expected)
    with pytest.raises(ValueError, match="there are only 3"):
        mixed(Numbered(3), 0.9, drawn=0)


def test_digits_from_the_web_are_partly_other_digits_whose_labels_are_wrong() -> None:
    web = OpenSetLabelNoise(Digits(num_classes=5), OtherDigits([5, 6, 7, 8, 9]), 0.4)
    data = LabelledImages(web, label_noise=Symmetric(0.25), loading=Loading(seed=1))
    data.setup("fit")
    true, label = data.train_set.clean_label, data.train_set.label
    foreign = true == UNKNOWN
    assert abs(foreign.float().mean() - 0.4) < 0.08
    assert ((label >= 0) & (label < 5)).all()
    wrong = (label != true)[~foreign].float().mean()
    assert abs(wrong - 0.25 * 4 / 5) < 0.08
    pixels = {image.numpy().tobytes() for image in data.train_set.source.fetch(torch.arange(len(true))[foreign], None)}
    later = {image.numpy().tobytes() for image in OtherDigits([5, 6, 7, 8, 9]).of_no_class((1, 8, 8), 0).image}
    assert pixels <= later
    batch = next(iter(data.training_images_dataloader()))
    assert torch.equal(batch["clean_label"], true[batch["index"]])
