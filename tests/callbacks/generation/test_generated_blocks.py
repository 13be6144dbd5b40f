"""A block of generated images depends only on the seed and its number; the random state of the run is unchanged."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from callbacks.generation.extraction import Extractor
from callbacks.generation.generated_blocks import GeneratedBlocks
from tests.callbacks.generation.tiny_generator import TinyGenerator
from tests.trainers import quiet


class Careless(TinyGenerator):
    """Samples with torch's global generator instead of the given one."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n)


def blocks(module: TinyGenerator, seed: int = 0, count: int = 40) -> GeneratedBlocks:
    return GeneratedBlocks(quiet(), module, Extractor(nn.Flatten(), "pixels"), count, 16, seed)


@torch.no_grad()
def test_a_block_follows_from_seed_and_number() -> None:
    for module in (TinyGenerator(), Careless()):
        state = torch.get_rng_state()
        first = blocks(module).images(1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert torch.equal(blocks(module, count=400).images(1), first)
        assert not torch.equal(blocks(module).images(0), first)
        assert not torch.equal(blocks(module, seed=1).images(1), first)
    assert [len(blocks(TinyGenerator()).images(number)) for number in range(3)] == [16, 16, 8]


class White(TinyGenerator):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.tensor([0.0, 0.9999, 1.0, 0.5]).expand(n, 1, 1, 4)


def test_images_are_rounded_down_and_the_first_ones_shown(tmp_path: Path) -> None:
    shown = blocks(White())
    shown.picture, shown.num_shown = tmp_path / "samples.png", 5
    assert shown.images(0)[0].flatten().tolist() == [0, 254, 255, 127]
    shown.features(1)
    assert not shown.picture.exists()
    shown.features(0)
    with Image.open(shown.picture) as picture:
        assert picture.size == (3 * (4 * 16 + 2) + 2, 2 * (1 * 16 + 2) + 2)
