from pathlib import Path

import pytest
import torch

from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.prompts import noise_pairs
from datamodules.prompts.noise_pair_files import pair_file, write_pair, write_scores
from datamodules.prompts.noise_pairs import NoisePairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(10):
        noise = torch.full((4, 2, 2), float(index))
        write_pair(pair_file(tmp_path, index, 0), noise, noise + 0.5, f"text {index}", [0.0], [float(index != 4)])
    write_scores(tmp_path)
    return tmp_path


@pytest.mark.parametrize("in_memory", [2**30, 0])
def test_pairs_are_split_once_and_come_with_their_texts(
    folder: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_pairs, "IN_MEMORY", in_memory)
    data = NoisePairs(str(folder), validation_fraction=0.3, batch_size=2, loading=Loading(seed=3))
    data.setup("fit")
    assert (len(data.train_set), len(data.validation_set)) == (6, 3)
    assert data.train_set.in_memory == bool(in_memory)
    seen = []
    for part in (data.train_set, data.validation_set):
        batch = part[Request(torch.arange(len(part)), 0, len(part))]
        torch.testing.assert_close(batch["target"], batch["source"] + 0.5)
        assert batch["caption"] == [f"text {value:.0f}" for value in batch["source"][:, 0, 0, 0].tolist()]
        seen += batch["caption"]
    assert sorted(seen) == sorted(f"text {index}" for index in range(10) if index != 4)


def test_noise_of_several_sizes_and_missing_arguments_are_refused(folder: Path) -> None:
    write_pair(pair_file(folder, 9, 0), torch.zeros(4, 3, 3), torch.zeros(4, 3, 3), "text 9", [0.0], [1.0])
    with pytest.raises(ValueError, match=r"has noise \[4, \d, \d\], but .* must come from one model and have one size"):
        NoisePairs(str(folder)).setup("fit")
    for stage, message in (
        ("fit", "training needs pairs: set data.data_dir to a folder of pairs, or data.prompts"),
        ("test", "test generates images for data.test_prompts: set it"),
    ):
        with pytest.raises(ValueError, match=message):
            NoisePairs().setup(stage)
    with pytest.raises(ValueError, match=r"pairs are collected for the prompts of data.prompts: set it"):
        NoisePairs().predict_dataloader()
    with pytest.raises(FileNotFoundError, match="data_dir none does not exist"):
        NoisePairs("none").setup("fit")
