from pathlib import Path

import pytest
import torch

from lightning_modules.robustness.rrcm.pretrained import pretrained_encoder
from lightning_modules.robustness.rrcm.projector import Projector
from tests.robustness.rrcm.small import pretraining, small_encoder


def test_the_last_norm_may_be_left_behind_and_what_is_missing_is_named(tmp_path: Path) -> None:
    module = pretraining(network=small_encoder(), projector=Projector(12, 10, 6))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "run.ckpt")
    encoder = pretrained_encoder(small_encoder(final_norm=False), str(tmp_path / "run.ckpt"))
    assert torch.equal(encoder.get_parameter("pos_embed"), module.average.get_parameter("pos_embed"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*elsewhere\.ckpt"):
        pretrained_encoder(small_encoder(), str(tmp_path / "elsewhere.ckpt"))
    with pytest.raises(ValueError, match=r"missing: blocks\.2"):
        pretrained_encoder(small_encoder(depth=3), str(tmp_path / "run.ckpt"))
    torch.save({"state_dict": small_encoder().state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="average"):
        pretrained_encoder(small_encoder(), str(tmp_path / "other.ckpt"))
