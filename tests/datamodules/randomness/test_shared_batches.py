"""Several processes draw the same numbers for the samples of a batch as one process does."""

import ast
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.randomness.shared_batches import begin_batch, end_batch, sample_rows, shared_rng
from lightning_modules.losses.mixing import SoftLabels, draw_mixing
from lightning_modules.robustness.attacks.ascent import random_start
from lightning_modules.robustness.smoothed_training.noisy_copies import noisy_copies
from lightning_modules.views import (
    AddedNoise,
    ColourJitter,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    TimmRandAugment,
)
from lightning_modules.views.byol import AffineJitter, BYOLView
from tests.command import ROOT
from tests.two_processes import in_two_processes

SEED, SIZE = 5, 7
IMAGE = torch.rand(SIZE, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABEL = torch.arange(SIZE) % 3
VIEWS = {
    "noise": AddedNoise(0.1),
    "colours": ColourJitter(),
    "operations": RandAugment(num_ops=2, magnitude=20),
    "operations of timm": TimmRandAugment(),
    "crops": RandomCrop(padding=2),
    "boxes": RandomResizedCrop(flip=True),
    "affine": AffineJitter(),
    "byol": BYOLView(0.5, 0.5),
}


def mixed(image: Tensor, label: Tensor, *alphas: float) -> Tensor:
    image, soft = SoftLabels(*alphas)(image, label, 3)
    return torch.cat([image.flatten(1), soft], dim=1)


def drawn(image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Draw random numbers for these samples in every way that training steps do; dimension 0 is the sample."""
    found = {name: view(image) for name, view in VIEWS.items()}
    mixing = draw_mixing(len(image), 1.0)
    return found | {
        "mixing": mixing(image),
        "partner's label": mixing.partners(label),
        "mixup": mixed(image, label, 0.8, 0.0),
        "cutmix": mixed(image, label, 0.0, 1.0),
        "either": torch.cat([mixed(image, label, 0.8, 1.0) for _ in range(6)], dim=1),
        "copies": noisy_copies(image, 0.1, num_copies=3).movedim(1, 0),
        "start": random_start(image, "l2", 0.1),
        "two halves": torch.stack(AddedNoise(0.1)(torch.cat([image, image])).chunk(2), dim=1),
        "timestep": sample_rows(partial(torch.randint, 1000), (len(image),), "cpu"),
    }


def in_one_of_two() -> Any:
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(100 + rank)
    begin_batch(SEED, SIZE)
    found = drawn(IMAGE[rank::2], LABEL[rank::2])
    end_batch()
    begin_batch(SEED + 1, SIZE)
    some = sample_rows(torch.rand, (2,), "cpu")  # two of three or four samples
    with shared_rng():
        alike = torch.rand(3)
    end_batch()
    return found, [some, sample_rows(torch.rand, (SIZE - 3 - rank,), "cpu")], alike


@pytest.fixture(scope="module")
def both() -> list[Any]:
    return in_two_processes(in_one_of_two)


def test_samples_are_drawn_the_same_whichever_process_has_them(both: list[Any]) -> None:
    torch.manual_seed(SEED)
    expected = drawn(IMAGE, LABEL)
    for rank, (found, _, _) in enumerate(both):
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values[rank::2], rtol=0, atol=1e-12, msg=name)
    assert len(expected["two halves"].unique(dim=1)[0]) == 2


def draws_of(path: Path) -> list[str]:
    """Return the lines of a file that draw without a generator, outside constructors (where all processes agree)."""
    draw = re.compile(r"torch\.(rand|randn|randint|rand_like|randn_like|bernoulli|poisson|normal|multinomial)\(")
    text = path.read_text()
    made = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name in ("__init__", "allocate")
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if number not in made]
    return [line for _, line in lines if draw.search(line) and not re.search(r"generator|^ *>>>", line)]


def test_modules_draw_for_samples_by_these_functions_or_by_generators_of_their_own() -> None:
    """With any other function, the random numbers would depend on the process.

    There are two exceptions: mixing, which draws within `shared_rng`, and methods that fit a single image, which seed
    torch for each image.
    """
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lightning_modules").rglob("*.py") if draws_of(path)}
    fitted = {"denoising/scoredvi/module.py", "baselines/deep_image_prior.py", "baselines/self2self.py"}
    assert found == {f"lightning_modules/{each}" for each in ("losses/mixing.py", *fitted)}


def test_one_process_draws_from_torchs_own_generators() -> None:
    torch.manual_seed(SEED)
    expected = torch.rand(4, 2), torch.rand(3)
    torch.manual_seed(SEED)
    begin_batch(SEED + 1, 4)
    with shared_rng():
        first = torch.rand(4, 2)
    assert torch.equal(first, expected[0])
    assert torch.equal(sample_rows(torch.rand, (3,), "cpu"), expected[1])


def test_each_process_draws_by_itself_for_some_samples_and_between_batches(both: list[Any]) -> None:
    """Draws that all processes share do not change the state of a process's own generator."""
    alike = torch.rand(3, generator=torch.Generator().manual_seed(SEED + 1))
    for rank, (_, own, also) in enumerate(both):
        generator = torch.Generator().manual_seed(100 + rank)
        for values in own:
            assert torch.equal(values, torch.rand(len(values), generator=generator))
        assert torch.equal(also, alike)
