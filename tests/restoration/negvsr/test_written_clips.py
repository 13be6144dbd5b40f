"""Prediction of clips: folders of frames or videos as input and output, resumed after an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn

from datamodules.files.video_files import decode_frames, facts_of
from datamodules.video.clip_pairs import ClipPairs
from lightning_modules.restoration.negvsr.written_clips import ClipWriter
from tests.datamodules.video.folders import frames, write_frames, write_video
from tests.grouped import grouped
from tests.trainers import quiet
from tests.two_processes import in_two_processes


class Doubled(ClipWriter, LightningModule):
    """Doubles the height and width of frames, and counts the frames that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.made = 0

    def estimate(self, batch: Any) -> Tensor:
        self.made += batch["noisy"].shape[:2].numel()
        return batch["noisy"].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4) + self.weight


def predict(given: Path, directory: Path, devices: int = 1, **options: Any) -> Doubled:
    module, data = Doubled(), ClipPairs(predict_dir=str(given), **grouped(ClipPairs, {"num_workers": 0, **options}))
    logger = CSVLogger(directory, name="", version="")
    strategy = "ddp" if devices > 1 else "auto"
    trainer = quiet(default_root_dir=directory, logger=logger, devices=devices, strategy=strategy)
    trainer.predict(module, data, return_predictions=False)
    return module


def test_frames_and_videos_are_written_in_their_own_kind(tmp_path: Path) -> None:
    clip = frames(5)
    write_frames(tmp_path / "given" / "a", clip)
    write_video(tmp_path / "given" / "b.mp4", frames(7, seed=1), rate=12)
    assert predict(tmp_path / "given", tmp_path / "run").made == 12
    run = tmp_path / "run"
    written = np.stack([np.asarray(Image.open(run / "restored" / "a" / f"{number:08d}.png")) for number in range(5)])
    np.testing.assert_array_equal(written, clip.repeat(2, axis=1).repeat(2, axis=2))
    assert sorted(path.name for path in run.glob("*/*.*")) == ["a.mp4", "b.mp4", "b.mp4"]  # nothing half-written
    facts = facts_of(run / "restored" / "b.mp4")
    assert (len(facts.times), facts.height, facts.width, facts.rate) == (7, 32, 48, 12)
    beside = decode_frames(run / "beside" / "a.mp4", "a").astype(int)
    assert beside.shape == (5, 32, 96, 3)
    np.testing.assert_allclose(beside[:, :, 48:], written, atol=12)
    assert abs(beside[:, :, :48] - beside[:, :, 48:]).mean() < 4


def test_an_interrupted_prediction_continues_part_by_part(tmp_path: Path) -> None:
    write_frames(tmp_path / "given" / "a", frames(5))
    write_frames(tmp_path / "given" / "b", frames(5, seed=1))
    options = {"evaluation_frames": 2, "evaluation_batch_size": 4}
    assert predict(tmp_path / "given", tmp_path / "run", **options).made == 10
    restored = tmp_path / "run" / "restored"
    before = {path: path.read_bytes() for path in restored.rglob("*.png")}
    assert len(before) == 10
    assert predict(tmp_path / "given", tmp_path / "run", **options).made == 0
    videos = tmp_path / "run" / "beside"
    (videos / "a.mp4").unlink()
    (restored / "b" / "00000003.png").unlink()
    (restored / "a" / "00000004.png").unlink()
    assert predict(tmp_path / "given", tmp_path / "run", **options).made == 3  # parts of two frames and of one
    assert {path: path.read_bytes() for path in restored.rglob("*.png")} == before
    assert sorted(path.name for path in videos.iterdir()) == ["a.mp4", "b.mp4"]
    Image.fromarray(np.zeros((16, 24, 3), dtype=np.uint8)).save(tmp_path / "given" / "a" / "00000000.png")
    with pytest.raises(ValueError, match="was written for other input data"):
        predict(tmp_path / "given", tmp_path / "run", **options)


def made_by_one_of_two(given: Path, directory: Path) -> int:
    return predict(given, directory, devices=2, evaluation_frames=2).made


def test_two_processes_share_the_parts_of_all_clips(tmp_path: Path) -> None:
    given, one, two = (tmp_path / name for name in ("given", "one", "two"))
    write_frames(given / "a", frames(5))
    write_frames(given / "b", frames(3, seed=1))
    write_video(given / "c.mp4", frames(2, seed=2))
    predict(given, one, evaluation_frames=2)
    made = in_two_processes(made_by_one_of_two, given, two)
    assert sum(made) == 10
    assert all(made)
    assert in_two_processes(made_by_one_of_two, given, two) == [0, 0]
    written = [path.relative_to(one) for path in one.rglob("*.*") if path.suffix in (".png", ".mp4")]
    assert len(written) == 10 + 3 + 1
    for path in written:
        assert (two / path).read_bytes() == (one / path).read_bytes(), path


def test_a_broken_clip_is_told_when_all_others_are_written(tmp_path: Path) -> None:
    write_frames(tmp_path / "given" / "a", frames(3))
    write_frames(tmp_path / "given" / "gap", frames(3))
    (tmp_path / "given" / "gap" / "00000001.png").unlink()
    with pytest.raises(ValueError, match=r"all images are written except 1: .*gap/00000001\.png is missing"):
        predict(tmp_path / "given", tmp_path / "run")
    assert len(list((tmp_path / "run" / "restored" / "a").iterdir())) == 3
