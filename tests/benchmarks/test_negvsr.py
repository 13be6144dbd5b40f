"""Time of NegVSR's patch rotation relative to a loop over patches; memory and time of recomputing recurrent steps."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lightning_modules.networks.real_basicvsr import RealBasicVSR
from lightning_modules.networks.spynet import ZeroFlow
from lightning_modules.restoration.negvsr import Negatives
from tests.benchmarks.pairs import paired_ratio

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
FRAMES = 30


def in_a_loop(clip: Tensor, noise: Tensor, side: int = 4) -> Tensor:
    """Mix clip and noise, and then rotate each patch with its own random number in a loop, like the published code."""
    mixed = (clip[0] + noise[0]) / 2
    patches = mixed.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    made, p = torch.zeros_like(patches), torch.randint(10, (1,)) / 10
    for number, patch in enumerate(patches):
        turns = int(torch.randint(5, (1,))) if torch.rand(1) <= p else 0
        made[number] = torch.rot90(patch, turns, dims=(1, 2)) if turns else patch
    rows, columns = clip.shape[3] // side, clip.shape[4] // side
    made = made.view(FRAMES, rows, columns, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    return made.reshape(clip.shape)


def test_patches_turn_faster_than_in_a_loop(report: Report) -> None:
    clip, noise = torch.rand(2, 1, FRAMES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    negatives = Negatives()
    ratio = paired_ratio(lambda: in_a_loop(clip, noise), lambda: negatives.of(clip, noise), 5, time.process_time)
    report(f"NegVSR: patches of {FRAMES} frames turned in a loop over them, and by one gather", ratio, ">= 20")
    assert ratio >= 20


def test_steps_that_are_computed_again_save_memory(report: Report) -> None:
    torch.manual_seed(0)
    network = RealBasicVSR(ZeroFlow(), width=16, num_blocks=10)
    clip = torch.rand(1, FRAMES, 3, 32, 32)

    def kept(checkpointed: bool) -> int:
        network.checkpointed = checkpointed
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loss = network(clip).square().mean()
        size = sum(event.self_cpu_memory_usage for event in seen.key_averages())
        assert loss.requires_grad
        return size

    def step(checkpointed: bool) -> Callable[[], None]:
        def take() -> None:
            network.checkpointed = checkpointed
            network.zero_grad()
            network(clip).square().mean().backward()

        return take

    memory = kept(True) / kept(False)
    ratio = paired_ratio(step(True), step(False), 3, time.process_time)
    report(f"RealBasicVSR: bytes kept for the backward pass of {FRAMES} frames, steps computed again", memory, "<= 0.5")
    report(f"RealBasicVSR: time of a step on {FRAMES} frames, steps computed again", ratio, "<= 1.4")
    assert memory <= 0.5
    assert ratio <= 1.4
