import torch

from datamodules.classification.digits import Digits
from datamodules.editing.images_with_ellipses import ImagesWithEllipses
from datamodules.loading.global_batches import Request

DIGITS = Digits(image_size=16)


def request(*index: int, epoch: int = 0) -> Request:
    return Request(torch.tensor(index), epoch, len(index))


def test_the_first_test_images_may_be_taken_alone() -> None:
    few, all_of_them = (ImagesWithEllipses(DIGITS, num_test_images=number).test(3, True) for number in (5, None))
    assert (len(few), len(all_of_them)) == (5, 497)
    batches = [images[request(0, 4)] for images in (few, all_of_them)]
    assert batches[0]["name"] == ["00000", "00004"]
    for key in ("image", "index", "regions", "editor_keeps"):
        assert torch.equal(batches[0][key], batches[1][key])


def test_regions_are_drawn_anew_in_training_and_fixed_in_testing() -> None:
    images = ImagesWithEllipses(DIGITS, unseen_change=0.0)
    first, again, second, other = (
        images.training(seed)[request(7, 8, epoch=epoch)]["regions"] for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first, again)
    assert not any(torch.equal(first, regions) for regions in (second, other))
    tested = images.test(0, True)[request(7, 8)]
    assert torch.equal(tested["regions"], images.test(0, True)[request(7, 8, epoch=1)]["regions"])
    assert torch.equal(tested["editor_keeps"], tested["regions"].expand(-1, 2, -1, -1))  # the file is unchanged
