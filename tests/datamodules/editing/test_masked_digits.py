from types import SimpleNamespace

import pytest
import torch

from datamodules.editing.masked_digits import MaskedDigits


def test_the_first_test_digits_may_be_taken_alone() -> None:
    few, all_of_them = MaskedDigits(seed=3, num_test_images=5), MaskedDigits(seed=3)
    for data in (few, all_of_them):
        data.setup("test")
    batches = [next(iter(data.test_dataloader())) for data in (few, all_of_them)]
    assert len(batches[0]["image"]) == len(few.test_dataloader().dataset) == 5  # type: ignore[arg-type]
    for key in ("image", "index"):
        assert torch.equal(batches[0][key], batches[1][key][:5])
    with pytest.raises(ValueError, match="num_test_images must be at least 1, got 0"):
        MaskedDigits(num_test_images=0)


def test_digits_have_their_names_on_any_device() -> None:
    data = MaskedDigits(num_test_images=3, evaluation_batch_size=2)
    data.setup("predict")
    loader = data.predict_dataloader()
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(dtype=torch.float32))  # type: ignore[assignment]
    for batch, names in zip(loader, (["00000", "00001"], ["00002"]), strict=True):
        on_host = data.on_before_batch_transfer(batch, 0)
        moved = data.transfer_batch_to_device(on_host, torch.device("meta"), 0)
        batch = data.on_after_batch_transfer(moved, 0)
        assert batch["image"].device.type == batch["regions"].device.type == "meta"
        assert batch["name"] == names
