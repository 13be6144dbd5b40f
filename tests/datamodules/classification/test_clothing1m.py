from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.labelled_images import LabelledImages
from tests.datamodules.classification.patterns import loaded
from tests.datamodules.image_folders import save


def folder_of_clothing(tmp_path: Path) -> Path:
    """Write k + 1 images with noisy labels for each class k, two clean validation images and three test images."""
    root, random = tmp_path / "clothing1m", np.random.default_rng(0)
    noisy = [(f"images/{k}/{i}.jpg", k) for k in range(14) for i in range(k + 1)]
    noisy = [noisy[i] for i in random.permutation(len(noisy))]
    clean = [(f"images/c/{i}.jpg", i) for i in range(5)]
    for key, _ in [*noisy, *clean]:
        save(root / key, Image.new("RGB", (12, 9)))
    lists = root / "annotations"
    lists.mkdir()
    (lists / "noisy_label_kv.txt").write_text("".join(f"{key} {label}\n" for key, label in reversed(noisy)))
    (lists / "clean_label_kv.txt").write_text("".join(f"{key} {label}\n" for key, label in [*clean, (noisy[0][0], 3)]))
    for name, keys in {"noisy_train": noisy, "clean_val": clean[:2], "clean_test": clean[2:]}.items():
        (lists / f"{name}_key_list.txt").write_text("".join(f"{key}\n" for key, _ in keys))
    return root


clothing = pytest.fixture(folder_of_clothing)


def test_clothing1m_reads_its_lists(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=4, batches_per_epoch=None, image_size=8, resize=8)
    data.setup("fit")
    data.setup("test")
    assert (data.num_train_samples, data.samples_per_epoch()) == (105, 105)
    assert data.train_set.label.bincount().tolist() == list(range(1, 15))
    source: Any = data.train_set.source
    assert [int(name.split("/")[1]) for name in source.names] == data.train_set.label.tolist()
    assert data.train_set.clean_label is None
    assert data.validation_set.label.tolist() == [0, 1]
    assert data.test_set.label.tolist() == [2, 3, 4]
    assert len(data.class_names) == 14


def test_an_epoch_is_balanced_over_the_noisy_labels_and_drawn_anew(clothing: Path) -> None:
    data = loaded(
        Clothing1M, str(clothing), batch_size=8, batches_per_epoch=7, image_size=8, resize=8, passes_per_epoch=2, seed=5
    )
    data.setup("fit")
    assert data.samples_per_epoch() == 1 + 2 + 3 + 11 * 4  # four per class; all images of the first three
    sampler: Any = data.train_dataloader().sampler
    passes: list[list[int]] = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        requests = list(sampler)
        assert len(requests) == len(sampler) == 2 * 7
        for start in (0, 7):
            visited = torch.cat([request.indices for request in requests[start : start + 7]])
            assert len(set(visited.tolist())) == len(visited)
            assert data.train_set.label[visited].diff().lt(0).sum() > 10  # classes are mixed
            counts = data.train_set.label[visited].bincount()
            assert counts.tolist() == [1, 2, 3, *[4] * 11][: len(counts)]
            passes.append(visited.tolist())
        assert [request.epoch for request in requests] == [2 * epoch] * 7 + [2 * epoch + 1] * 7
    assert len({tuple(sorted(visited)) for visited in passes}) == 6
    assert len({index for visited in passes for index in visited}) > 80


def test_batches_that_classes_do_not_divide_give_the_first_classes_one_image_more(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=8, batches_per_epoch=4, image_size=8, resize=8)
    data.setup("fit")
    assert data.samples_per_epoch() == sum([1, 2, 3, 3, *[2] * 10])  # 32 = 2 * 14 + 4
    drawn = data.draw_epoch(np.random.default_rng(0))
    assert np.bincount(data.train_set.given.numpy()[drawn]).tolist() == [1, 2, 3, 3, *[2] * 10]


def test_an_epoch_of_cached_features_is_balanced_as_that_of_the_images(clothing: Path, tmp_path: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=14, batches_per_epoch=2, image_size=8, resize=8, num_workers=0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    images = CachedFeatures(data.images, encoder, num_features=4, cache_dir=str(tmp_path / "cache"), num_workers=0)
    features = LabelledImages(images, 14, batches_per_epoch=2)
    features.setup("fit")
    assert features.samples_per_epoch() == 1 + 13 * 2
    label = torch.cat([batch["label"] for batch in features.train_dataloader()])
    assert label.bincount().tolist() == [1, *[2] * 13]


def test_every_image_of_a_class_is_equally_likely_in_an_epoch(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=14, batches_per_epoch=2, image_size=8, resize=8)
    data.setup("fit")
    draws = np.concatenate([data.draw_epoch(np.random.default_rng(seed)) for seed in range(2000)])
    members = np.flatnonzero(data.train_set.given.numpy() == 13)
    counts = np.bincount(draws, minlength=105)[members]
    assert counts.sum() == 2 * 2000
    assert chisquare(counts).pvalue > 0.01  # sampled without replacement: the spread is at most that of chi-square
