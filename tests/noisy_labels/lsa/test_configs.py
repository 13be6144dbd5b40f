"""LSA's experiments have the settings of its authors' scripts; experiments with PLS alone have those of PLS."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.configurations import whole

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "lsa"
# epochs, batch size, learning rate, weight decay, plain epochs, layer, penalty
SETTINGS: dict[str, tuple[int, int, float, float, int, str, bool]] = {
    "cnwl": (200, 256, 0.1, 5e-4, 1, "layer2", False),
    "cnwl_pls": (200, 256, 0.1, 5e-4, 1, "layer2", True),
    "cifar10": (200, 256, 0.1, 5e-4, 30, "layer2", True),
    "cifar100": (200, 256, 0.1, 5e-4, 30, "layer2", True),
    "cifar100_web_noise_plus": (200, 256, 0.1, 5e-4, 1, "layer2", False),
    "cifar100_web_noise_pls": (200, 256, 0.1, 5e-4, 30, "layer2", True),
    "webvision": (130, 64, 0.02, 5e-4, 1, "conv2d_2b", True),
    "web_bird": (110, 32, 0.006, 1e-3, 1, "layer2", False),
    "web_bird_pls": (110, 16, 0.003, 1e-3, 10, "layer2", True),
}
SETTINGS |= {f"{key}_plus": SETTINGS[key] for key in ("cnwl", "webvision", "web_bird")}


def read(key: str) -> Any:
    return whole(CONFIGS / f"{key}.yaml")


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_are_those_of_the_authors(key: str) -> None:
    config = read(key)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    optimizer, schedule = model["optimizer"], model["lr_scheduler"]
    detection, correction, loss = model["detection"], model["correction"], model["loss"]
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["momentum"] == 0.9
    found = (
        *(config["trainer"]["max_epochs"], data["batch_size"], optimizer["init_args"]["lr"]),
        *(optimizer["init_args"]["weight_decay"], correction["warmup_epochs"], detection["feature_layer"]),
        loss.get("penalty", False),
    )
    assert found == SETTINGS[key]
    assert config["trainer"]["precision"] == "16-mixed"
    assert schedule["class_path"].endswith(".CosineSchedule")
    plain = correction["warmup_epochs"]
    alone = detection["detectors"] == ["loss"]
    assert schedule["init_args"] == {"epochs": found[0], **({"constant_epochs": plain} if alone else {})}
    assert (correction["gamma"], loss["temperature"], detection["threshold"]) == (2.0, 0.2, 0.95)
    assert detection["detectors"] == (["loss"] if alone else ["linear", "loss"])
    assert data.get("loading", {}).get("passes_per_epoch", 1) == (2 if key.endswith("_plus") else 1)
    assert "augmentation" not in data
    assert bool(model.get("strong_view")) != alone
    assert loss.get("confidence", False) == alone
    assert correction.get("guess_views", 1) == (2 if alone else 1)


def test_images_of_the_web_are_resized_as_the_authors_of_each_method_do() -> None:
    for path in (*CONFIGS.glob("cnwl*.yaml"), *CONFIGS.glob("web*.yaml")):
        assert read(path.stem)["data"]["init_args"]["images"]["init_args"]["interpolation"] == "bicubic", path
    for method in ("elr", "elr_plus", "cross_entropy"):
        images = whole(CONFIGS.parent / method / "webvision.yaml")["data"]["init_args"]["images"]
        assert images == "datamodules.classification.webvision.WebVision"  # bilinear


@pytest.mark.parametrize(
    ("key", "view"), [("web_bird", "CenterCrop"), ("web_bird_plus", "CenterCrop"), ("web_bird_pls", "Resize")]
)
def test_web_images_are_tested_at_the_size_that_each_script_has(key: str, view: str) -> None:
    expected = {"class_path": f"torchvision.transforms.v2.{view}", "init_args": {"size": 448}}
    assert read(key)["model"]["init_args"]["evaluation_view"] == expected


def test_strong_views_are_as_strong_as_the_authors() -> None:
    """The magnitude of RandAugment is 6 for mini-ImageNet, on which CNWL is based, and 4 for the other sets."""
    models = {p.stem: read(p.stem)["model"]["init_args"] for p in CONFIGS.glob("*.yaml") if p.stem != "claim"}
    strong = {key: model["strong_view"] for key, model in models.items() if model.get("strong_view")}
    found = {key: view["init_args"]["magnitude"] for key, view in strong.items()}
    assert found == {key: 6 if key.startswith("cnwl") else 4 for key in found}
    assert {"cnwl", "cnwl_clip", "cifar100_web_noise_plus", "webvision", "web_bird"} <= set(found)


def test_settings_of_clip_are_those_of_the_authors() -> None:
    config = read("cnwl_clip")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (config["trainer"]["max_epochs"], data["batch_size"]) == (50, 256)
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-5, "weight_decay": 0.1}}
    assert (model["optimizer"], model["heads"]) == (optimizer, {"lr_factor": 10_000})
    assert model["lr_scheduler"]["init_args"] == {"epochs": 50}
    assert (model["correction"], model["loss"]) == ({"warmup_epochs": 1, "gamma": 2.0}, {"temperature": 0.2})
    # l = 1
    assert model["detection"] == {"detectors": ["linear", "loss"], "threshold": 0.95, "feature_layer": "blocks.1"}
    tower, resnet = (
        each["model"]["init_args"]["network"]["init_args"]["network"]["init_args"] for each in (config, read("cnwl"))
    )
    for key in ("mean", "std"):  # CLIP also uses those of the dataset
        assert tower[key] == resnet[key]
    assert config["trainer"]["precision"] == "16-mixed"


@pytest.mark.parametrize("key", ["cifar10", "cifar100"])
def test_tables_of_cifar_train_on_what_elr_trains_on(key: str) -> None:
    ours, theirs = read(key), whole(CONFIGS.parent / "elr" / f"{key}.yaml")
    for shared in ("images", "label_noise", "validation_fraction"):
        assert ours["data"]["init_args"].get(shared) == theirs["data"]["init_args"].get(shared)
    assert ours["checkpoint"] == theirs["checkpoint"]


@pytest.mark.parametrize("key", ["cifar10", "cifar100"])
def test_headers_name_the_asymmetric_noise_that_elr_trains_on(key: str) -> None:
    """The two settings differ only in the class of the noise, so no separate file is needed."""
    named = [
        re.findall(r"--data\.label_noise\.class_path ([\w.]*\w)", header(folder, key)) for folder in ("lsa", "elr")
    ]
    assert named[0] == named[1] != []


def header(folder: str, key: str) -> str:
    return (CONFIGS.parent / folder / f"{key}.yaml").read_text().replace("\n#", "")


def test_folders_of_many_tables_hold_few_files() -> None:
    for folder, most in (("lsa", 20), ("score_sde", 21)):
        assert len(list((CONFIGS.parent / folder).glob("*.yaml"))) <= most
