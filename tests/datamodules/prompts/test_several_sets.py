from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.folder_sets import CaptionedFolder
from datamodules.prompts.several_sets import SeveralSets, WeightedSet
from tests.datamodules.image_folders import photograph, save


def folder_of(folder: Path, sizes: list[tuple[int, int]], first: int = 0) -> Path:
    for number, size in enumerate(sizes):
        save(folder / f"{number}.png", photograph(*size, first + number))
        (folder / f"{number}.txt").write_text(f"{folder.name} {number}")
    return folder


def data_of(*sets: WeightedSet, **options: Any) -> CaptionedImages:
    data = CaptionedImages(SeveralSets(list(sets)), loading=Loading(num_workers=0, seed=1), **options)
    data.setup("fit")
    return data


def test_an_epoch_has_each_image_as_often_as_its_set_says(tmp_path: Path) -> None:
    cats, walls = folder_of(tmp_path / "cats", [(30, 30)] * 3), folder_of(tmp_path / "walls", [(40, 24), (24, 24)], 3)
    large = CaptionedFolder(str(walls), image_size=24, resize=32, buckets=Buckets(8))
    data = data_of(
        WeightedSet(CaptionedFolder(str(cats), image_size=16), repeats=3, prefix="sks, "),
        WeightedSet(large, weight=0.25),
        WeightedSet(CaptionedFolder(str(walls), image_size=16), repeats=2),
        batch_size=4,
        augmentation=Augmentation(flip=True),
    )
    assert data.image_shape == (3, 24, 24)
    seen: Counter[tuple[str, int, float]] = Counter()
    places, together = [], set()
    for batch in data.train_dataloader():
        places += batch["index"].tolist()
        for caption, image, weight in zip(batch["caption"], batch["image"], batch["image_weight"], strict=True):
            seen[caption, image.shape[-1], float(weight)] += 1
            if image.shape[1:] == (16, 16) and "sks" in caption:
                file = cats / f"{caption[-1]}.png"
                expected = np.asarray(Image.open(file).resize((16, 16), Image.Resampling.BILINEAR)) / 255
                found = image.permute(1, 2, 0).numpy()
                assert min(np.abs(found - each).max() for each in (expected, expected[:, ::-1])) < 0.02
        together.add(frozenset(caption.split()[-2] for caption in batch["caption"]))
    assert sorted(places) == list(range(3 * 3 + 2 + 2 * 2))
    assert frozenset({"cats", "walls"}) in together  # sets share batches of 16 x 16 pixels
    expected_counts = {(f"sks, cats {number}", 16, 1.0): 3 for number in range(3)}
    expected_counts |= {("walls 0", 32, 0.25): 1, ("walls 1", 24, 0.25): 1}
    assert seen == expected_counts | {(f"walls {number}", 16, 1.0): 2 for number in range(2)}
    assert len(data.training_images_dataloader().dataset) == 3 + 2 + 2  # type: ignore[arg-type]


def test_repetitions_of_an_image_have_their_own_crops(tmp_path: Path) -> None:
    cats = folder_of(tmp_path / "cats", [(60, 40)])
    data = data_of(WeightedSet(CaptionedFolder(str(cats), image_size=16), repeats=8), batch_size=8)
    [batch] = data.train_dataloader()
    assert "image_weight" not in batch
    assert len({tuple(each) for each in batch["size_conditions"].tolist()}) > 3
    (again,) = data.train_dataloader()
    assert torch.equal(batch["image"], again["image"])


@pytest.mark.parametrize("moved", [False, True])
def test_an_image_is_held_out_in_all_sizes_or_in_none(moved: bool, tmp_path: Path) -> None:
    cats = folder_of(tmp_path / ("z" if moved else "cats"), [(24, 24)] * 6)
    other = folder_of(tmp_path / "other", [(24, 24)] * 4)
    names = [
        CaptionedFolder(str(cats), image_size=16, prompt="{}"),
        CaptionedFolder(str(other), image_size=16, prompt="other {}"),
        CaptionedFolder(f"{cats.parent}/other/../{cats.name}/", image_size=24, prompt="{}"),
    ]
    data = data_of(*(WeightedSet(each, repeats=2) for each in names), batch_size=2, validation_fraction=0.4)
    assert data.train_set is not None
    assert data.validation_set is not None
    kept, held = (Counter(each.captions) for each in (data.train_set, data.validation_set))
    assert len(held) == 4
    assert not set(held) & set(kept)
    assert set(held) | set(kept) == {*map(str, range(6)), *(f"other {number}" for number in range(4))}
    for counts, times in ((kept, 2), (held, 1)):
        assert all(count == times * (1 if "other" in name else 2) for name, count in counts.items())
    order = np.random.default_rng([1, 1]).permutation(10)
    assert set(held) == {str(number) if number < 6 else f"other {number - 6}" for number in order[:4]}


def test_masks_of_some_sets_are_white_for_the_others(tmp_path: Path) -> None:
    cats, walls = folder_of(tmp_path / "cats", [(24, 24)] * 2), folder_of(tmp_path / "walls", [(24, 24)] * 2)
    for number in range(2):
        save(tmp_path / "masks" / f"{number}.png", Image.new("L", (24, 24), 51))
    masked = CaptionedFolder(str(cats), image_size=16, mask_dir=str(tmp_path / "masks"))
    data = data_of(WeightedSet(CaptionedFolder(str(walls), image_size=16)), WeightedSet(masked), batch_size=4)
    [batch] = data.train_dataloader()
    for caption, mask in zip(batch["caption"], batch["loss_mask"], strict=True):
        torch.testing.assert_close(mask, torch.full((1, 16, 16), 0.2 if "cats" in caption else 1.0))


def test_sets_that_do_not_fit_together_are_rejected(tmp_path: Path) -> None:
    cats = folder_of(tmp_path / "cats", [(24, 24)] * 2)
    save(tmp_path / "bare" / "0.png", photograph(24, 24))
    with_texts, bare = CaptionedFolder(str(cats), image_size=16), CaptionedFolder(str(tmp_path / "bare"), image_size=16)
    for sets, message in (
        ([WeightedSet(with_texts), WeightedSet(bare)], r"sets\.1: .*bare has no captions, .* sets\.1\.images\.prompt"),
        ([WeightedSet(bare, prefix="a")], r"sets\.0: .*bare has no captions"),
        ([WeightedSet(CaptionedClasses(Digits(image_size=16)))], r"sets\.0\.images must be Cap.* got Capt"),
        ([WeightedSet(SeveralSets([WeightedSet(bare)]))], r"sets\.0\.images must be Cap.* got SeveralSets"),
        ([WeightedSet(CaptionedFolder(str(cats), 16, condition_dir=str(cats))), WeightedSet(with_texts)],
         r"condition_dir is set for .*cats, but not for .*cats: set it for all sets or for none"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            SeveralSets(sets).training()
    assert SeveralSets([WeightedSet(bare), WeightedSet(bare)]).training().captions is None
    two = SeveralSets([WeightedSet(with_texts), WeightedSet(CaptionedFolder(str(cats), 24, buckets=Buckets(12)))])
    with pytest.raises(ValueError, match=r"multiples of 8: change data\.images\.sets\.1\.images\.buckets\.multiple"):
        CaptionedImages(two).check_sizes(8)
    with pytest.raises(ValueError, match=r"images of 16 x 16 .*: change data\.images\.sets\.0\.images\.image_size"):
        CaptionedImages(two).check_sizes(12)
    with pytest.raises(ValueError, match="prior must have images of one size"):
        CaptionedImages(with_texts, prior=two)
