"""Training batches from shards of ImageNet-sized JPEG images, compared with streaming by `datasets`."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.image_shards import ImageShards
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from tests.benchmarks.elr_steps import as_in_training
from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.peers import peer
from tests.benchmarks.test_fid_peers_speed import cost
from tests.benchmarks.test_jpeg_folder_speed import cpu_seconds
from tests.datamodules.classification.image_shards.shards import Sample, tar_members, write_parquet, write_tar

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
SHARDS, EACH, WORKERS = 4, 100, 2
"""Number of shards, images per shard (one row group each, as `datasets` writes them), and loader processes."""


def jpegs(count: int) -> Iterator[Sample]:
    """Make 500 x 375 crops of two photographs, in ten classes."""
    photographs, random = [Image.fromarray(each) for each in load_sample_images().images], np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % 2]
        left, top = (int(random.integers(0, room + 1)) for room in (photograph.width - 500, photograph.height - 375))
        photograph.crop((left, top, left + 500, top + 375)).save(memory := io.BytesIO(), "JPEG", quality=90)
        yield f"{number:06}", memory.getvalue(), number % 10


def write(folder: Path, kind: str, count: int = SHARDS, each: int = EACH, samples: Any = jpegs) -> None:
    every = list(samples(count * each))
    for shard in range(count):
        part, path = every[shard * each : (shard + 1) * each], folder / f"train-{shard:03}.{kind}"
        if kind == "parquet":
            write_parquet(path, part, rows=100)
        else:
            write_tar(path, [(name.replace(".png", ".jpg"), content) for name, content in tar_members(part)])


def ours(folder: Path, cache: bool, workers: int = WORKERS) -> Callable[[], None]:
    """Open the shards, and return a function that reads one epoch."""
    images = ImageShards(10, str(folder), cache_dir=str(folder / "cache") if cache else None)
    data = LabelledImages(
        images, 32, augmentation=Augmentation(flip=True), loading=Loading(num_workers=workers, seed=0)
    )
    data.setup("fit")
    as_in_training(data)

    def epoch() -> None:
        loader = data.train_dataloader()
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
        del loader, batch

    return epoch


def theirs(datasets: Any, folder: Path, kind: str, workers: int = WORKERS) -> Callable[[], None]:
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform, image, label = transforms.Compose(steps), *(("image", "label") if kind == "parquet" else ("jpg", "cls"))
    files = sorted(str(path) for path in folder.glob(f"train-*.{kind}"))
    reader = "parquet" if kind == "parquet" else "webdataset"
    streamed = datasets.load_dataset(reader, data_files=files, split="train", streaming=True)
    if kind == "parquet":
        streamed = streamed.cast_column("image", datasets.Image())

    def sample(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": transform(row[image].convert("RGB")), "label": row[label]}

    names = [name for name in streamed.column_names or () if name not in ("image", "label")]

    def epoch() -> None:
        shuffled = streamed.shuffle(seed=0).map(sample, remove_columns=names)
        count = 0
        for batch in DataLoader(shuffled, 32, num_workers=workers):
            count += len(batch["image"])
        assert count == SHARDS * EACH

    return epoch


@pytest.mark.parametrize("clock", [cpu_seconds, time.perf_counter])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_epoch_beside_datasets(
    kind: str, clock: Callable[[], float], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both datasets are opened before timing.

    With parquet, an epoch of `datasets` ends with five seconds of sleep, which are not counted.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets, name = peer("datasets", "datasets")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    write(tmp_path, kind)
    ratio = paired_ratio(ours(tmp_path, kind == "parquet"), theirs(datasets, tmp_path, kind), 3, clock)
    time_of = "wall" if clock is time.perf_counter else "CPU"
    how = {"tar": "tar shards", "parquet": "parquet shards with cache_dir"}[kind]
    row = f"{time_of} time of {SHARDS * EACH} JPEG images of 500 x 375 in {how}, crops of 224, {WORKERS} workers"
    report(f"{row}, over {name} streaming", ratio, "<= 1")
    assert ratio <= 1


def test_parquet_without_copies(report: Report, tmp_path: Path) -> None:
    """Read images from different row groups, as in a batch from a large dataset."""
    some = list(jpegs(EACH))

    def every(count: int) -> Iterator[Sample]:
        """Repeat the images with different trailing bytes, so that parquet stores every repetition."""
        return ((f"{n:06}", some[n % EACH][1] + n.to_bytes(4), 0) for n in range(count))

    write(tmp_path, "parquet", 32, EACH, every)
    kept, plain = (
        ImageShards(10, str(tmp_path), cache_dir=cache).training() for cache in (str(tmp_path / "cache"), None)
    )
    row = torch.arange(0, 32 * EACH, EACH) + 50
    assert torch.equal(plain.fetch(row, None), kept.fetch(row, None))
    ratio = paired_ratio(lambda: plain.fetch(row, None), lambda: kept.fetch(row, None), 7, time.process_time)
    report(
        f"CPU time of 32 such images of as many groups of {EACH} rows of parquet over that with cache_dir", ratio, ""
    )


MEMORY = r"""
import re, sys
from pathlib import Path
import datasets, PIL.JpegImagePlugin, pyarrow.dataset, pyarrow.parquet, torch
from tests.benchmarks.test_image_shards_speed import ours, theirs
torch.set_num_threads(1)
folder, who, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def kib(what):
    return int(re.search(what + r":\s+(\d+)", Path("/proc/self/status").read_text())[1])


Path("/proc/self/clear_refs").write_text("5")  # the peak so far equals the current memory
before = kib("VmRSS")
epoch = ours(folder, kind == "parquet", 0) if who == "ours" else theirs(datasets, folder, kind, 0)
epoch()
print(kib("VmHWM") - before)
"""


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_memory_beside_datasets(kind: str, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure, in a process without workers, the memory that an epoch needs in addition to the imports."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, name = peer("datasets", "datasets")
    write(tmp_path, kind)
    kib = {
        who: int(cost("-c", MEMORY, str(tmp_path), who, kind, folder=tmp_path).printed) for who in ("ours", "theirs")
    }
    ratio = kib["ours"] / kib["theirs"]
    report(f"peak memory of such an epoch of {kind} shards beyond imports, over {name} streaming", ratio, "<= 1")
    assert ratio <= 1


def small(count: int) -> Iterator[Sample]:
    return ((f"{number:06}", b"content", number % 10) for number in range(count))


@pytest.mark.parametrize(("kind", "cache"), [("tar", False), ("tar", True), ("parquet", False)])
def test_ten_times_the_samples(kind: str, cache: bool, report: Report, tmp_path: Path) -> None:
    """Measure the work that is done once per dataset: creating or reading its index."""
    for count in (2, 20):
        write(tmp_path / str(count), kind, count, 1000, small)

    def opened(count: int) -> None:
        folder = tmp_path / str(count)
        images = ImageShards(10, str(folder), cache_dir=str(folder / "cache") if cache else None)
        assert len(images.training().label) == 1000 * count

    ratio = paired_ratio(lambda: opened(20), lambda: opened(2), 5, time.process_time)
    how = " by the index in cache_dir" if cache else ""
    report(f"growth: CPU time of opening {kind} shards of 20,000 samples{how} against 2,000", ratio, "<= 11")
    assert ratio <= 11
