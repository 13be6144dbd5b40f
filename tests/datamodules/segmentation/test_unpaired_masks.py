from typing import Any

import torch
from torch import Tensor

from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.segmentation.ellipse_images import EllipseImages
from datamodules.segmentation.ellipses import Ellipses
from datamodules.segmentation.unpaired_masks import UnpairedMasks


def request(*index: int, epoch: int = 0) -> Request:
    return Request(torch.tensor(index), epoch, len(index))


def augmented(data: Any, *index: int, epoch: int = 0) -> Tensor:
    batch = data.train_set[request(*index, epoch=epoch)]
    return data.augment(batch, batch.pop("epoch"))["auxiliary_mask"]


def test_auxiliary_masks_depend_on_seed_visit_and_image_alone() -> None:
    data, other = (UnpairedMasks(EllipseImages(), loading=Loading(seed=seed)) for seed in (3, 4))
    for each in (data, other):
        each.set_up_training()
    whole = augmented(data, 0, 1, 2, 3, epoch=5)
    assert whole.shape == (4, 1, 32, 32)
    assert torch.equal(augmented(data, 3, 1, epoch=5), whole[[3, 1]])
    assert not torch.equal(augmented(data, 0, 1, 2, 3, epoch=6), whole)
    assert not torch.equal(augmented(other, 0, 1, 2, 3, epoch=5), whole)


def test_annotated_images_have_their_true_masks_as_labels() -> None:
    """Only the supervised upper bound uses these labels; images and auxiliary masks are the same as without them."""
    free, annotated = (
        UnpairedMasks(EllipseImages(annotated=given), loading=Loading(seed=3)) for given in (False, True)
    )
    batches = []
    for data in (free, annotated):
        data.set_up_training()
        batches.append(data.train_set[request(*range(20))])
    assert (free.has_training_labels, annotated.has_training_labels) == (False, True)
    assert torch.equal(batches[1]["image"], batches[0]["image"])
    assert torch.equal(batches[1]["label"], batches[0]["clean_label"])
    assert not batches[0]["label"].any()
    assert torch.equal(augmented(annotated, 0, 1, epoch=5), augmented(free, 0, 1, epoch=5))


def test_auxiliary_masks_belong_to_no_image_and_all_are_used_alike() -> None:
    data: Any = UnpairedMasks(EllipseImages(shapes=Ellipses(10), num_training=100))
    data.set_up_training()
    pool = Ellipses(10).masks(torch.arange(10), 32, seed=0)
    drawn = torch.cat([augmented(data, *range(100), epoch=epoch)[:, 0] for epoch in range(10)])
    same = (drawn[:, None] == pool[None]).all(dim=(2, 3))
    assert same.any(dim=1).all()
    assert same.sum(dim=0).min() > 60  # of 1,000, with an expectation of 100 each
    truth = data.train_set[request(*range(100))]["clean_label"]
    assert not (truth[:, None] == pool[None]).all(dim=(2, 3)).any()


def test_each_seed_and_split_has_textures_of_its_own() -> None:
    def pixels(seed: int, split: str) -> Tensor:
        data = UnpairedMasks(EllipseImages(num_training=60, num_validation=60, num_test=60), loading=Loading(seed=seed))
        data.setup("fit")
        edge = getattr(data.images, split)().image[:, :, :3].double()  # outside all structures
        return (edge - edge.mean(dim=(1, 2, 3), keepdim=True)).flatten()[None]

    rows = torch.cat([pixels(seed, split) for seed in (0, 1) for split in ("training", "validation", "test")])
    assert (torch.corrcoef(rows) - torch.eye(6)).abs().max() < 0.25
