import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from datamodules.classification.image_folder import ImageFolder
from datamodules.classification.image_sets import ImageFiles
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.files.image_files import (
    Crop,
    files_by_class,
)
from experiments.run_directory import MetricsTable
from tests.datamodules.classification.patterns import loaded
from tests.datamodules.image_folders import photograph, save, shades


def test_a_source_fetches_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    shades(tmp_path, "train", ["a", "b"])
    names, label = files_by_class(tmp_path / "train", ["a", "b"])
    source = ImageFiles(tmp_path / "train", names, label, Crop(8, 10))
    batch = source.fetch(torch.tensor([6, 1]), None)
    assert batch.shape == (2, 3, 8, 8)
    assert batch.dtype == torch.uint8
    assert batch.flatten(2).float().mean(dim=2).tolist() == [[10, 20, 100], [0, 10, 100]]
    assert source.label[[6, 1]].tolist() == [1, 0]


def truncated_png() -> bytes:
    buffer = io.BytesIO()
    photograph(60, 60).save(buffer, "png")
    return buffer.getvalue()[: buffer.tell() // 2]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_is_one_sentence_from_a_worker_too(tmp_path: Path, num_workers: int) -> None:
    for split in ("train", "test"):
        shades(tmp_path, split, ["a", "b"])
    damaged = tmp_path / "train" / "b" / "3.png"
    damaged.write_bytes(truncated_png())
    data = loaded(ImageFolder, str(tmp_path), batch_size=4, image_size=8, resize=8, num_workers=num_workers)
    data.setup("fit")
    with pytest.raises(ValueError, match="cannot be read") as raised:
        list(data.train_dataloader())
    sentence = str(raised.value)
    assert sentence.startswith(f"{damaged} cannot be read as an image (")
    assert sentence.endswith("); replace or remove it")
    assert "\n" not in sentence


def test_a_file_name_in_any_bytes_is_found_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\xf0\x9f\x98\x80.png")
    save(tmp_path / "k" / name, Image.new("RGB", (8, 8), (1, 2, 3)))
    names, label = files_by_class(tmp_path, ["k"])
    batch = ImageFiles(tmp_path, names, label, Crop(8, 8)).fetch(torch.tensor([0]), None)
    assert batch[0, :, 0, 0].tolist() == [1, 2, 3]


class Recorder(LightningModule):
    """Keeps what it is given, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, Any]] = []
        self.validated: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.batches.append(batch)
        return self.weight * batch["image"].sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(directory: Path, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=MetricsTable(directory),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def trained(data: LabelledImages, directory: Path, epochs: int = 1) -> Recorder:
    module = Recorder()
    trainer(directory, epochs).fit(module, datamodule=data)
    return module


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    shades(root, "train", ["cat", "dog", "emu"], per_class=5)
    shades(root, "val", ["cat", "dog", "emu"], per_class=2)
    shades(root, "test", ["cat", "dog", "emu"], per_class=3)
    return root


def test_a_users_folders_are_trained_validated_and_tested_on(own_images: Path, tmp_path: Path) -> None:
    data = loaded(ImageFolder, str(own_images), batch_size=8, image_size=8, resize=8, num_workers=0)
    assert (data.num_classes, data.class_names, data.image_shape) == (3, ["cat", "dog", "emu"], (3, 8, 8))
    module = trained(data, tmp_path)
    images = torch.cat([batch["image"] for batch in module.batches])
    labels = torch.cat([batch["label"] for batch in module.batches])
    assert images.dtype == torch.float32
    assert len(images) == data.num_train_samples == 15
    torch.testing.assert_close(images[:, 0].mean(dim=(1, 2)) * 255, 10.0 * labels)
    assert sorted(torch.cat([batch["index"] for batch in module.batches]).tolist()) == list(range(15))
    assert [len(batch["label"]) for batch in module.validated] == [6]
    module.validated.clear()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    tested = torch.cat([batch["image"] for batch in module.validated])
    assert (tested[:, 1, 0, 0] * 255).round().tolist() == [0, 10, 20] * 3
    assert "visit" not in module.batches[0]


def test_without_a_test_folder_the_validation_folder_tests(tmp_path: Path) -> None:
    shades(tmp_path, "train", ["a", "b"])
    shades(tmp_path, "val", ["a", "b"], per_class=1)
    data = loaded(ImageFolder, str(tmp_path), batch_size=4, image_size=8, resize=8, validation_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    assert data.num_train_samples == 6
    assert data.validation_set is not None
    assert data.test_set is not None
    assert (len(data.validation_set), len(data.test_set)) == (2, 2)
    assert ImageFolder(str(tmp_path)).validation() is None


def test_workers_deliver_the_same_images_in_every_epoch(own_images: Path, tmp_path: Path) -> None:
    """With persistent workers the epoch reaches them with each request: crops change, and no process count matters."""
    for position, path in enumerate(sorted((own_images / "train").rglob("*.png"))):
        photograph(40, 30, seed=position).save(path)

    def images(num_workers: int) -> Tensor:
        data = loaded(
            ImageFolder, str(own_images), batch_size=5, image_size=8, resize=8, num_workers=num_workers, seed=1
        )
        batches = trained(data, tmp_path, epochs=2).batches
        order = torch.cat([batch["index"] for batch in batches]).view(2, 15).argsort(dim=1)
        flat = torch.cat([batch["image"] for batch in batches]).view(2, 15, -1)
        return flat.gather(1, order[..., None].expand(-1, -1, flat.shape[2]))

    alone, with_workers = images(0), images(2)
    assert torch.equal(alone, with_workers)
    assert not torch.isclose(alone[0], alone[1]).all(dim=1).any()


def test_a_users_labels_come_by_position_and_their_table_names_the_files(own_images: Path, tmp_path: Path) -> None:
    data = loaded(
        ImageFolder,
        str(own_images),
        batch_size=5,
        label_noise=Symmetric(0.5, seed=3),
        image_size=8,
        resize=8,
        num_workers=0,
    )
    run = trainer(tmp_path)
    run.fit(Recorder(), datamodule=data)
    table = (tmp_path / "labels.csv").read_text().splitlines()
    assert table[0] == "index,label,clean_label,split,name"
    assert [row.split(",")[-1] for row in table[1:4]] == ["cat/0.png", "cat/1.png", "cat/2.png"]
    again = loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(tmp_path / "labels.csv")), batch_size=5)
    again.setup("fit")
    assert data.train_set is not None
    assert again.train_set is not None
    assert torch.equal(again.train_set.label, data.train_set.label)
    assert (again.train_set.label != again.train_set.clean_label).any()


def test_a_few_files_of_a_folder_are_labelled_by_name(own_images: Path, tmp_path: Path) -> None:
    table = tmp_path / "corrected.csv"
    table.write_text("name,label\ncat/1.png,dog\n")
    data = loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(table), partial=True), batch_size=5)
    data.setup("fit")
    assert data.train_set is not None
    source: Any = data.train_set.source
    changed = (data.train_set.label != source.label).nonzero().flatten().tolist()
    assert [source.names[at] for at in changed] == ["cat/1.png"]
    assert data.class_names is not None
    assert data.class_names[data.train_set.label[changed[0]]] == "dog"


def test_a_table_without_true_labels_makes_no_folder_the_truth(own_images: Path, tmp_path: Path) -> None:
    images = len(loaded(ImageFolder, str(own_images), image_size=8, resize=8).images.training().label)
    table = tmp_path / "corrected.csv"
    table.write_text("index,label\n" + "".join(f"{i},{i % 2}\n" for i in range(images)))
    data = loaded(
        ImageFolder,
        str(own_images),
        batch_size=2,
        label_noise=FromCSV(str(table)),
        image_size=8,
        resize=8,
        num_workers=0,
    )
    trainer(tmp_path).fit(Recorder(), datamodule=data)
    assert data.train_set is not None
    assert data.train_set.clean_label is None
    assert "clean_label" not in next(iter(data.train_dataloader()))
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "index,label,split,name"
    known = tmp_path / "known.csv"
    known.write_text(
        "index,label,clean_label\n"
        + "".join(f"{i},0,{true}\n" for i, true in enumerate(data.images.training().label.tolist()))
    )
    data = loaded(ImageFolder, str(own_images), batch_size=2, label_noise=FromCSV(str(known)), image_size=8, resize=8)
    data.setup("fit")
    assert data.train_set is not None
    assert torch.equal(data.train_set.clean_label, data.images.training().label[data.train_set.row])  # type: ignore[arg-type]


def rename_tests(root: Path) -> None:
    for name in ("test", "val"):
        (root / name).rename(root / f"my {name}")


FOLDER_FAULTS: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda root: (root / "train").rename(root / "t"), FileNotFoundError, "train does not exist; expected .*<image>"),
    (lambda root: (root / "train" / "fox").mkdir(), FileNotFoundError, "train/fox holds no image; expected files that"),
    (lambda root: (root / "test" / "fox").mkdir(), ValueError, "test holds folders that are no class of .*train: fox"),
    (lambda root: (root / "test" / "emu").rename(root / "emu"), FileNotFoundError, "test holds no folder emu"),
    (rename_tests, FileNotFoundError, "holds neither test/<class>/<image> nor val"),
]


def set_up(root: Path) -> None:
    data = loaded(ImageFolder, str(root), batch_size=2)
    data.setup("fit")
    data.setup("test")


@pytest.mark.parametrize(("harm", "error", "message"), FOLDER_FAULTS)
def test_folders_that_do_not_fit_are_named(
    own_images: Path, harm: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    harm(own_images)
    with pytest.raises(error, match=message):
        set_up(own_images)


def test_a_folder_of_images_without_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train" / "image.png", photograph(8, 8))
    with pytest.raises(FileNotFoundError, match=r"train holds no folder; expected .*one folder for each class"):
        loaded(ImageFolder, str(tmp_path))


def test_a_data_dir_that_is_a_file_or_missing_is_named(tmp_path: Path) -> None:
    file = save(tmp_path / "photo.png", photograph(8, 8))
    with pytest.raises(NotADirectoryError, match=r"data_dir .*photo\.png is a file"):
        loaded(ImageFolder, str(file))
    with pytest.raises(FileNotFoundError, match=r"data_dir .*nowhere does not exist"):
        loaded(ImageFolder, str(tmp_path / "nowhere"))
