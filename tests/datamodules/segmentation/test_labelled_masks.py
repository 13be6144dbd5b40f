import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.loading import Loading
from datamodules.segmentation import labelled_masks
from datamodules.segmentation.corrected_masks import CorrectedMasks
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.mask_sets import MaskSet, MasksInMemory
from datamodules.segmentation.shapes import Shapes
from experiments.saving.metrics_table import MetricsTable
from lightning_modules.interfaces import LabelStore, require
from tests.datamodules.recorder import Recorder, in_order, trained
from tests.grouped import grouped
from tests.trainers import quiet

NUM_CLASSES = 3


class Blocks(MaskSet):
    """Random 6 x 4 images with random masks: eleven for training and five for testing."""

    num_classes = NUM_CLASSES
    image_shape = (2, 6, 4)

    def __init__(self, known: bool = True) -> None:
        self.known = known

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(count)
        image = torch.randint(256, (count, *self.image_shape), generator=generator, dtype=torch.uint8)
        given, clean = torch.randint(NUM_CLASSES, (2, count, 6, 4), generator=generator, dtype=torch.uint8)
        given[0, 0, 0] = clean[0, 0, 0] = 255
        return image, given, clean

    def training(self) -> MasksInMemory:
        image, given, clean = self._draw(11)
        return MasksInMemory(image, given, NUM_CLASSES, clean if self.known else None)

    def validation(self) -> MasksInMemory:
        return MasksInMemory(*self._draw(3)[:2], NUM_CLASSES)

    def test(self) -> MasksInMemory:
        return MasksInMemory(*self._draw(5)[:2], NUM_CLASSES)


def blocks(batch_size: int = 4, known: bool = True, **options: Any) -> LabelledMasks:
    return LabelledMasks(Blocks(known), batch_size, **grouped(LabelledMasks, {"num_workers": 0} | options))


class InAFile(LabelledMasks):
    """Keeps corrected labels in a file, as is done for datasets that do not fit in shared memory."""

    def __init__(self, batch_size: int = 4, **options: Any) -> None:
        super().__init__(Blocks(), batch_size, **grouped(LabelledMasks, {"num_workers": 0} | options))

    def set_up_training(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(labelled_masks, "LARGEST_IN_MEMORY", 0)
            super().set_up_training()


def corrected(label: Tensor) -> Tensor:
    return torch.where(label == 1, 2, label)


def correct_every_other(module: Any, data: Any) -> None:
    """Change category 1 to 2 in the masks of every other image after the first epoch."""
    if module.current_epoch == 0:
        for batch in data.training_images_dataloader():
            chosen = batch["index"] % 2 == 0
            data.correct_labels(batch["index"][chosen], corrected(batch["label"][chosen]))


def source(data: LabelledMasks) -> Any:
    return data.train_set.source


def corrections_file(data: LabelledMasks) -> Path:
    return data.train_set.corrections.path


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_batches_hold_what_their_type_says(tmp_path: Path, precision: Any) -> None:
    data = blocks()
    module = trained(data, tmp_path, precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    keys = ["clean_label", "global_batch_size", "image", "index", "label", "original_label"]
    assert all(sorted(batch) == keys for batch in module.trained)
    assert [batch["global_batch_size"] for batch in module.trained] == [4, 4, 3]
    image, given_masks, clean = data.images._draw(11)
    assert torch.equal(in_order(module.trained, "image"), image.to(dtype) / 255)
    for key, expected in (("label", given_masks), ("original_label", given_masks), ("clean_label", clean)):
        label = in_order(module.trained, key)
        assert label.dtype == torch.int64
        assert torch.equal(label, expected.long())
    assert all(sorted(batch) == ["global_batch_size", "image", "index", "label"] for batch in module.evaluated)
    assert torch.equal(in_order(module.evaluated, "label"), data.images._draw(3)[1].long())


def test_true_masks_are_left_out_where_they_are_unknown(tmp_path: Path) -> None:
    module = trained(blocks(known=False), tmp_path)
    assert all("clean_label" not in batch and "original_label" in batch for batch in module.trained)


@pytest.mark.parametrize("kind", [blocks, InAFile])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_corrections_reach_living_workers_and_leave_the_given_masks(kind: Any, num_workers: int) -> None:
    data = kind(num_workers=num_workers)
    require(data, LabelStore, needed_by="a test")
    data.setup("fit")
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    given_masks = source(data).given.clone()
    before = list(loader)
    assert torch.equal(in_order(before, "label"), given_masks)
    index = torch.tensor([10, 3])
    data.correct_labels(index, corrected(given_masks[index].long()))
    sampler.set_epoch(1)  # persistent workers
    after = list(loader)
    expected = given_masks.clone()
    expected[index] = corrected(given_masks[index])
    assert not torch.equal(expected, given_masks)
    assert torch.equal(in_order(after, "label"), expected)
    assert torch.equal(in_order(after, "original_label"), given_masks)
    assert torch.equal(in_order(after, "clean_label"), data.images._draw(11)[2])
    assert torch.equal(in_order(list(data.training_images_dataloader()), "label"), expected)
    assert torch.equal(source(data).given, given_masks)
    data.teardown("fit")


@pytest.mark.parametrize("kind", [blocks, InAFile])
@pytest.mark.parametrize("set_up_first", [True, False])
def test_corrections_are_part_of_the_checkpoint(tmp_path: Path, kind: Any, set_up_first: bool) -> None:
    data = kind()
    module = trained(data, tmp_path, correct_every_other, epochs=2)
    given_masks = source(data).given.long()
    assert torch.equal(in_order(module.trained[:3], "label"), given_masks)
    expected = given_masks.clone()
    expected[::2] = corrected(expected[::2])
    assert torch.equal(in_order(module.trained[3:], "label"), expected)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["corrected_labels"]["index"].tolist() == [0, 2, 4, 6, 8, 10]  # the changes, and nothing else
    restored = kind()
    if set_up_first:
        restored.setup("fit")
        restored.correct_labels(torch.tensor([1]), torch.zeros(1, 6, 4))  # this correction is discarded
    restored.load_state_dict(state)
    resumed = trained(restored, tmp_path / "resumed")
    assert torch.equal(in_order(resumed.trained, "label"), expected)
    assert torch.equal(in_order(resumed.trained, "original_label"), given_masks)


def test_a_run_without_corrections_saves_none_and_leaves_no_file(tmp_path: Path) -> None:
    data = InAFile()
    trained(data, tmp_path)
    assert set(data.state_dict()) == {"epoch", "batches"}
    path = corrections_file(data)
    assert path.parent == tmp_path
    assert not path.exists()


def test_validation_alone_reads_no_training_images_and_leaves_no_file(tmp_path: Path) -> None:
    data, module = InAFile(mask_noise=ErosionDilation(seed=0)), Recorder()
    quiet(logger=MetricsTable(tmp_path)).validate(module, datamodule=data, verbose=False)
    image, expected, _ = data.images._draw(3)
    assert torch.equal(in_order(module.evaluated, "label"), expected.long())
    assert torch.equal(in_order(module.evaluated, "image"), image / 255)
    assert data.train_set is None
    assert not [path for path in tmp_path.iterdir() if "masks" in path.name]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are listed by Linux alone")
def test_a_file_of_corrections_outside_of_a_run_holds_no_descriptor() -> None:
    data = InAFile()
    data.setup("fit")
    path = corrections_file(data)
    assert path.exists()
    assert not any(Path(link).resolve() == path for link in Path("/proc/self/fd").iterdir())  # not needed for a mapping
    data.teardown("fit")
    assert not path.exists()


def test_a_file_of_corrections_takes_room_for_what_is_corrected_alone(tmp_path: Path) -> None:
    size = torch.tensor([1000, 1000]).expand(100, 2)
    masks = CorrectedMasks(size, tmp_path / "masks")
    masks.write(torch.tensor([7]), torch.ones(1, 1000, 1000, dtype=torch.uint8))
    occupied = os.stat(tmp_path / "masks").st_blocks * 512
    assert 1_000_000 <= occupied < 1_100_000
    again = pickle.loads(pickle.dumps(CorrectedMasks(size[:9], tmp_path / "masks")))  # as a spawned worker receives it
    assert again.mask(7).min() == 1
    assert again.mask(8).max() == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8), st.data())
def test_masks_of_any_sizes_come_back_as_they_were_written(sizes: list[tuple[int, int]], draw: st.DataObject) -> None:
    """Checkpoints restore the masks, too. Of an array that is larger than its mask, the upper left part is used."""
    masks = CorrectedMasks(torch.tensor(sizes))
    chosen = draw.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True))
    label = torch.randint(256, (len(chosen), 10, 11), dtype=torch.uint8)
    masks.write(torch.tensor(chosen, dtype=torch.int64), label)
    again = CorrectedMasks(torch.tensor(sizes))
    again.load(masks.checkpoint_state())
    before = [torch.full(size, 77, dtype=torch.uint8) for size in sizes]
    index = torch.arange(len(sizes))
    for store in (masks, again):
        for sample, mask in enumerate(store.current(index, before)):
            height, width = sizes[sample]
            expected = label[chosen.index(sample), :height, :width] if sample in chosen else before[sample]
            assert torch.equal(mask, expected)


def test_corrections_of_another_set_are_refused() -> None:
    masks = CorrectedMasks(torch.tensor([[2, 3], [3, 3]]))
    masks.write(torch.tensor([1]), torch.zeros(1, 3, 3, dtype=torch.uint8))
    for sizes in ([[2, 3]], [[2, 3], [3, 4]]):
        with pytest.raises(ValueError, match="corrected mask of training sample 1 does not fit the training set"):
            CorrectedMasks(torch.tensor(sizes)).load(masks.checkpoint_state())


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.full((1, 6, 4), 3), r"label has a pixel of category 3, but num_classes 3 allows 0\.\.\.2, and 255"),
        (torch.zeros(1, 6, 3), r"label is \[6, 3\], smaller than an image, \[6, 4\]"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(label: Tensor, message: str) -> None:
    data = blocks()
    data.setup("fit")
    with pytest.raises(ValueError, match=message):
        data.correct_labels(torch.tensor([0]), label)
    data.correct_labels(torch.tensor([], dtype=torch.int64), torch.zeros(0, 6, 4))  # an empty correction is no error


def test_a_run_keeps_how_wrong_its_masks_were_made(tmp_path: Path) -> None:
    data = LabelledMasks(Shapes(num_train=12), mask_noise=ErosionDilation(), loading=Loading(num_workers=0, seed=0))
    trained(data, tmp_path / "noisy")
    clean = source(data).clean
    header, *rows = [line.split(",") for line in (tmp_path / "noisy" / "mask_noise.csv").read_text().splitlines()]
    assert header == ["category", "lost", "false", "iou"]
    for category, (name, lost, _, iou) in enumerate(rows):
        assert name == ["background", "disc", "square"][category]
        true, given_as = clean == category, source(data).given == category
        assert float(lost) == pytest.approx(float((true & ~given_as).sum() / true.sum()))
        assert float(iou) == pytest.approx(float((true & given_as).sum() / (true | given_as).sum()))
    trained(blocks(), tmp_path / "clean")
    assert not (tmp_path / "clean" / "mask_noise.csv").exists()


def test_noise_takes_the_seed_of_each_data_set_that_it_is_given_to_unless_it_has_its_own() -> None:
    own, linked = ErosionDilation(seed=7), ErosionDilation()
    for noise, seed, drawn in ((own, 1, 7), (linked, 1, 1), (linked, 2, 2)):
        data = LabelledMasks(Shapes(num_train=12), mask_noise=noise, loading=Loading(seed=seed))
        data.setup("fit")
        assert torch.equal(source(data).given, ErosionDilation(seed=drawn).apply(source(data).clean, 3))


IMAGE, MASK = torch.zeros(2, 1, 4, 5, dtype=torch.uint8), torch.zeros(2, 4, 5, dtype=torch.uint8)
