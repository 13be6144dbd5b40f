from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.domain_net import DomainNet
from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.labelled_images import LabelledImages
from tests.datamodules.classification.shifted import SMALL, Unused, paint, reds
from tests.trainers import quiet


@pytest.fixture
def domain_net(tmp_path: Path) -> Path:
    """Two classes in three domains; red is 100 * domain + 5 * class + image, the last image tests."""
    root = tmp_path / "domain_net"
    for d, domain in enumerate(("real", "sketch", "clipart")):
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for label, category in ((0, "aircraft_carrier"), (7, "ambulance")):
            for image in range(3):
                name = f"{domain}/{category}/{domain}_{image}.png"
                paint(root / name, 100 * d + 5 * label + image)
                lists["test" if image == 2 else "train"].append(f"{name} {label}")
        for split, lines in lists.items():
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_domain_net_trains_on_one_domain_and_tests_on_its_own_and_the_others(domain_net: Path) -> None:
    data = DomainNet(str(domain_net), "sketch", ["clipart", "real"], **SMALL)
    train, test = data.training(), data.test()
    assert (reds(data, train), train.label.tolist()) == ([100, 101, 135, 136], [0, 0, 7, 7])
    assert (reds(data, test), test.label.tolist()) == ([102, 137], [0, 7])
    shifted = data.ood_test_sets()
    assert list(shifted) == ["clipart", "real"]
    assert [reds(data, source) for source in shifted.values()] == [[202, 237], [2, 37]]
    assert {len(source.label) for source in shifted.values()} == {2}
    assert len(DomainNet(str(domain_net)).test_domains) == 5


def test_what_is_wrong_with_domain_net_is_named(domain_net: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no infograph_test\.txt"):
        DomainNet(str(domain_net), test_domains=["infograph"], **SMALL).ood_test_sets()
    with pytest.raises(ValueError, match="unknown domain photo; DomainNet has clipart"):
        DomainNet(str(domain_net), "photo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_domains must be distinct domains out of clipart"):
        DomainNet(str(domain_net), "real", ["real"])
    path = domain_net / "domain_net/clipart_test.txt"
    data = DomainNet(str(domain_net), "real", ["clipart"], **SMALL)
    data.test()
    path.write_text("clipart/ambulance/clipart_0.png 0\n")
    with pytest.raises(ValueError, match="has label 0, which is aircraft_carrier"):
        data.ood_test_sets()
    for line in ("clipart/ambulance/clipart_0.png", "a.png x", ""):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1: expected <file> <label>"):
            data.ood_test_sets()


def own(root: Path, **sets: str) -> Any:
    return ImageFolder(str(root / "own"), shifted=sets, **SMALL)


def test_a_missing_list_of_domain_net_is_told_before_the_first_step(domain_net: Path) -> None:
    data = LabelledImages(DomainNet(str(domain_net), "real", ["infograph"], **SMALL))
    with pytest.raises(FileNotFoundError, match=r"found no infograph_test\.txt"):
        quiet(callbacks=[ShiftedAccuracy()]).fit(Unused(), datamodule=data)


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_of_domain_net_without_the_images_are_told_before_the_first_step(domain_net: Path, split: str) -> None:
    image = domain_net / f"domain_net/clipart/aircraft_carrier/clipart_{0 if split == 'train' else 2}.png"
    image.unlink()
    own = split == "train"
    images = DomainNet(str(domain_net), *("clipart", ["real"]) if own else ("real", ["clipart"]), **SMALL)
    data = LabelledImages(images)
    with pytest.raises(FileNotFoundError, match=rf"{image.name} does not exist; .*clipart_{split}\.txt names it"):
        quiet(callbacks=[ShiftedAccuracy()]).fit(Unused(), datamodule=data)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_no_shifted_set_is_refused(stage: str, domain_net: Path, tmp_path: Path) -> None:
    none: Any = DomainNet(str(domain_net), test_domains=[], **SMALL)
    for data, said in (
        (none, "DomainNet has no shifted test set"),
        (
            CachedFeatures(none, torch.nn.Flatten(), 768, cache_dir=str(tmp_path)),
            "CachedFeatures has no shifted test",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            getattr(quiet(callbacks=[ShiftedAccuracy()]), stage)(Unused(), datamodule=LabelledImages(data))
