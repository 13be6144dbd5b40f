from pathlib import Path
from typing import Any

import pytest

from datamodules.classification.domain_net import DomainNet
from datamodules.classification.folder_sets import ImageFolder
from tests.datamodules.classification.shifted import SMALL, paint, reds


def folder_of_domains(tmp_path: Path) -> Path:
    """Write two classes in three domains.

    Each class has three images, of which the last is for testing. The red value of an image is 100 * domain + 5 * class
    + image.
    """
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


domain_net = pytest.fixture(folder_of_domains)


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


def own(root: Path, **sets: str) -> Any:
    return ImageFolder(str(root / "own"), shifted=sets, **SMALL)
