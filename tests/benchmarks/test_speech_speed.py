"""Speed of cropping recordings, of enhancement relative to its network, and of evaluation with two processes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diffusers import UNet2DModel
from torch.utils.data import DataLoader, Dataset

from datamodules.loading import Loading
from datamodules.speech.recordings import Recordings, SpeechSet, Split
from datamodules.speech.speech_pairs import SpeechPairs
from lightning_modules.restoration.sgmse import SGMSE
from tests.benchmarks.pairs import paired_ratio, seconds
from tests.benchmarks.test_image_pairs_speed import Trainer
from tests.trainers import quiet
from tests.two_processes import in_two_processes

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]
CROP = 32_640


class Spoken(SpeechSet):
    """Noise instead of speech, with the lengths of utterances."""

    sample_rate = 16_000

    def __init__(self, count: int, samples: int) -> None:
        random = np.random.default_rng(0)
        self.signals = [random.integers(-9000, 9000, samples + 8 * number, dtype=np.int16) for number in range(count)]

    def recordings(self, split: Split) -> Recordings:
        return Recordings(
            [str(number) for number in range(len(self.signals))], self.signals, self.signals, self.sample_rate
        )


class PerItem(Dataset):
    """Files of noisy and clean recordings that are opened and cropped one by one."""

    def __init__(self, folder: Path, signals: list[np.ndarray]) -> None:
        self.files = [(folder / f"{number}_noisy.wav", folder / f"{number}.wav") for number in range(len(signals))]
        for files, signal in zip(self.files, signals, strict=True):
            for file in files:
                soundfile.write(file, signal, 16_000)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, ...]:
        both = [torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in self.files[item]]
        start = int(torch.randint(len(both[0]) - CROP + 1, ()))
        return tuple(one[start : start + CROP] for one in both)


def test_crops_against_a_loader_that_opens_a_file_for_each(report: Report, tmp_path: Path) -> None:
    spoken = Spoken(96, 64_000)
    data = SpeechPairs(spoken, batch_size=8, crop_length=CROP)
    data.setup("fit")
    data.trainer = Trainer()  # type: ignore[assignment]
    ours, theirs = data.train_dataloader(), DataLoader(PerItem(tmp_path, spoken.signals), batch_size=8, shuffle=True)

    def our_epoch() -> None:
        for batch in ours:
            data.on_after_batch_transfer(batch, 0)

    ratio = 1 / paired_ratio(our_epoch, lambda: [None for _ in theirs], clock=time.process_time)
    report(
        "crops per CPU second of SpeechPairs over a loader that opens the files of each, 4 s at 16 kHz", ratio, ">= 5"
    )
    assert ratio >= 5


def enhancer(num_steps: int) -> SGMSE:
    """Build SGMSE+ with the network of `configs/sgmse/small_speech.yaml`."""
    network = UNet2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=2,
        time_embedding_type="fourier",
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )
    return SGMSE(network, frame_multiple=8, num_steps=num_steps).eval()


def test_enhancement_is_its_network(report: Report) -> None:
    module, inside = enhancer(5), [0.0]
    original = module.network_output

    def timed(*given: Any) -> torch.Tensor:
        output: list[Any] = []
        inside[0] += seconds(lambda: output.append(original(*given)), time.process_time)
        return output[0]

    module.network_output = timed  # type: ignore[method-assign]
    batch: Any = {"noisy": 0.1 * torch.randn(1, 64_000), "index": torch.tensor([0])}
    with torch.no_grad():
        module.estimated(batch)
        inside[0] = 0.0
        total = seconds(lambda: module.estimated(batch), time.process_time)
    ratio = inside[0] / total
    report("CPU time of the network within enhancement by SGMSE+, a million parameters, 5 steps", ratio, ">= 0.95")
    assert ratio >= 0.95


def evaluated(devices: int) -> float:
    """Measure the time of a test on eight recordings, without its start-up."""
    torch.set_num_threads(1)
    strategy: Any = "ddp" if devices > 1 else "auto"
    trainer, data = (
        quiet(devices=devices, strategy=strategy),
        SpeechPairs(test=Spoken(8, 48_000), loading=Loading(seed=0)),
    )
    module, times = enhancer(4), []
    module.on_test_start = lambda: times.append(time.perf_counter())  # type: ignore[method-assign]
    module.on_test_end = lambda: times.append(time.perf_counter())  # type: ignore[method-assign]
    trainer.test(module, data, verbose=False)
    return times[1] - times[0]


def test_two_processes_share_recordings(report: Report) -> None:
    one = min(in_two_processes(evaluated, 1, count=1)[0] for _ in range(2))
    two = min(max(in_two_processes(evaluated, 2)) for _ in range(2))
    report("time of a test of eight recordings on two processes over one, SGMSE+", two / one, "<= 0.6")
    assert two / one <= 0.6
