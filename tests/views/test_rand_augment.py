"""timm's RandAugment on a batch: each operation equals timm's on Pillow images; strings, draws, rejections."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timms
from torch import Tensor

from lightning_modules.views import TimmRandAugment
from lightning_modules.views.rand_augment import GEOMETRIC, TIMM_OPERATIONS, parse_recipe

NAMES = {name.lower(): name for name in timms._RAND_TRANSFORMS}


def images(batch: int, size: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * smooth).round() / 255


def by_timm(image: Tensor, operation: str, magnitude: float, sign: int, increasing: bool, monkeypatch: Any) -> Tensor:
    """Apply timm's operation to one image, with the given sign."""
    name = NAMES[
        {"translate_x": "translatexrel", "translate_y": "translateyrel"}.get(operation, operation.replace("_", ""))
    ]
    if increasing and f"{name}Increasing" in timms.LEVEL_TO_ARG:
        name += "Increasing"
    monkeypatch.setattr(timms, "_randomly_negate", lambda value: sign * value)
    hparams = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BILINEAR}
    given = Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy())
    if operation == "posterize" and int(4 * min(magnitude, 10) / 10) == (4 if increasing else 0):
        return torch.zeros_like(image)  # newer versions of Pillow reject this operation
    made = timms.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)(given)  # type: ignore[arg-type]
    return torch.from_numpy(np.array(made)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize(("magnitude", "sign"), [(9, 1), (15, 1), (3.7, -1), (0, 1)])
@pytest.mark.parametrize("operation", TIMM_OPERATIONS)
def test_an_operation_is_timms(operation: str, magnitude: float, sign: int, increasing: bool, monkeypatch: Any) -> None:
    image = images(3)
    view = TimmRandAugment("rand-m9-inc1" if increasing else "rand-m9", fill=128 / 255)
    drawn = (
        torch.full((3,), TIMM_OPERATIONS.index(operation)),
        torch.full((3,), min(magnitude, 10.0)),
        torch.full((3,), sign),
    )
    found = view.apply_operations(image, *drawn)
    expected = torch.stack([by_timm(each, operation, magnitude, sign, increasing, monkeypatch) for each in image])
    far = (found - expected).abs() > 2.01 / 255  # Pillow rounds a mean and a result
    # If a moved pixel comes from the edge, rounding decides whether it is inside.
    assert far.float().mean() < (0.02 if operation in GEOMETRIC else 1e-9)
    assert (found.equal(image)) == bool((expected - image).abs().max() < 1e-6) or operation in GEOMETRIC


def test_magnitudes_are_each_images_own() -> None:
    view, image = TimmRandAugment(), images(4)
    magnitude, sign = torch.tensor([1.0, 4.0, 7.0, 10.0]), torch.tensor([1, -1, 1, -1])
    for number in range(len(TIMM_OPERATIONS)):
        operation = torch.full((4,), number)
        whole = view.apply_operations(image, operation, magnitude, sign)
        for row in range(4):
            alone = (each[row : row + 1] for each in (image, operation, magnitude, sign))
            torch.testing.assert_close(whole[row : row + 1], view.apply_operations(*alone))


def test_strings_say_how_often_and_how_strongly() -> None:
    paper = parse_recipe("rand-m15-n2-p1-mstd0")
    assert paper == {"m": 15, "n": 2, "p": 1, "mstd": 0, "mmax": 10, "inc": 0}
    assert parse_recipe("rand-m9-mstd0.5-inc1") == {"m": 9, "n": 2, "p": 0.5, "mstd": 0.5, "mmax": 10, "inc": 1}
    assert TimmRandAugment("rand-m15")._magnitudes((2,), torch.device("cpu")).tolist() == [10, 10]
    torch.manual_seed(0)
    drawn = TimmRandAugment("rand-m7-mstd0.5")._magnitudes((4000,), torch.device("cpu"))
    assert float(drawn.mean()) == pytest.approx(7, abs=0.05)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.05)
    uniform = TimmRandAugment("rand-m8-mstdinf")._magnitudes((4000,), torch.device("cpu"))
    assert float(uniform.std()) == pytest.approx(8 / math.sqrt(12), abs=0.1)
    assert parse_recipe("rand-mmax30-m20")["mmax"] == 30


def test_an_operation_is_left_out_as_often_as_asked_for() -> None:
    image = images(400, size=8)
    assert TimmRandAugment("rand-p0")(image).equal(image)
    torch.manual_seed(0)
    once = TimmRandAugment("rand-m9-n1-p0.5-inc1")(image)
    assert float((once != image).flatten(1).any(dim=1).float().mean()) == pytest.approx(0.5, abs=0.08)
    always = TimmRandAugment("rand-m9-n2-p1-inc1")(image)
    assert float((always != image).flatten(1).any(dim=1).float().mean()) > 0.95
    assert 0 <= float(always.min()) <= float(always.max()) <= 1
    assert TimmRandAugment()(torch.empty(5, 3, 12, 12, device="meta")).shape == (5, 3, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "augmix-m3"}, "recipe must be rand-<part>"),
        ({"recipe": "rand-m9-tweights"}, "recipe must be rand-<part>.*got 'rand-m9-tweights'"),
    ],
)
def test_what_is_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmRandAugment(**arguments)
