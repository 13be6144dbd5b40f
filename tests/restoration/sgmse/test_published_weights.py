"""The authors' checkpoints with our names, compared with values of the authors' code.

The authors' code computed the values in float64 from the parameters and inputs of `state` and `channels`.
"""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.restoration.sgmse import sgmse_weights
from lightning_modules.restoration.sgmse.speech_ncsnpp import SpeechNCSNpp
from tests.networks.test_published_ncsnpp import DECODER, ENCODER, FINE, INSIDE, filled, parameters

LAYERS = ("frequencies 8", *ENCODER[:2], "conv 4 8", *ENCODER[3:], "combine 4 8", *INSIDE, *DECODER)
LAYERS += ("norm 16", "conv 16 4", *FINE, "norm 8", "conv 8 4")
PLACES = [0, 50, 100, 127, 128, 200]
OUTPUTS = [
    *(-0.09624422803197541, -0.15839571201824684, 0.4876092185522921),
    *(0.3170606141550025, 0.06449726897014452, 0.3419822551977866),
]


def network() -> SpeechNCSNpp:
    return SpeechNCSNpp(8, 8, (1, 2), 1, (4,)).double().eval()


def content(frequencies_averaged: bool = True, **hyper_parameters: Any) -> dict[str, Any]:
    """Return a Lightning checkpoint whose trained weights differ from the averaged ones."""
    shapes = [("output_layer.weight", (2, 4, 1, 1)), ("output_layer.bias", (2,)), *parameters(LAYERS)]
    state = {name: filled(shape, place) for place, (name, shape) in enumerate(shapes)}
    average = [value for name, value in state.items() if frequencies_averaged or name != "all_modules.0.W"]
    trained = {f"dnn.{name}": value + (name != "all_modules.0.W") for name, value in state.items()}
    return {
        "state_dict": {**trained, "pesq_loss.window": torch.ones(2)},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": average, "collected_params": None},
        "hyper_parameters": {"backbone": "ncsnpp", "sde": "ouve", "theta": 1.5, **hyper_parameters},
        "epoch": 115,
    }


def channels() -> Tensor:
    return torch.sin(0.13 * torch.arange(512, dtype=torch.float64)).reshape(2, 4, 8, 8)


@pytest.mark.parametrize("frequencies_averaged", [True, False])
def test_the_network_computes_what_the_authors_code_does(frequencies_averaged: bool, tmp_path: Path) -> None:
    torch.save(content(frequencies_averaged), tmp_path / "vb.ckpt")
    ours = sgmse_weights(network(), str(tmp_path / "vb.ckpt"))
    with torch.no_grad():
        found = ours(channels(), torch.tensor([0.5, 0.9], dtype=torch.float64)).flatten()[PLACES]
    torch.testing.assert_close(found, torch.tensor(OUTPUTS, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_class_in_the_hyperparameters_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = types.ModuleType("authors_data_module")
    theirs.SpecsDataModule = type("SpecsDataModule", (), {"__module__": theirs.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    torch.save(content(data_module_cls=theirs.SpecsDataModule), tmp_path / "vb.ckpt")  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, theirs.__name__)
    ours = sgmse_weights(network(), str(tmp_path / "vb.ckpt"))
    torch.testing.assert_close(ours.mix.bias.data, filled((2,), 1), rtol=0, atol=0)
    assert theirs.__name__ not in sys.modules


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": "ncsnpp_v2"}, r"vb\.ckpt: hyper_parameters\.backbone must be ncsnpp, got 'ncsnpp_v2'"),
        ({"sde": "sbve"}, "hyper_parameters.sde must be ouve, got 'sbve'"),
        ({"centered": False}, "hyper_parameters.centered must be True, got False"),
    ],
    ids=["backbone", "sde", "centered"],
)
def test_checkpoints_of_other_models_are_rejected(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(content(**given), tmp_path / "vb.ckpt")
    with pytest.raises(ValueError, match=message):
        sgmse_weights(network(), str(tmp_path / "vb.ckpt"))


def test_another_layout_is_one_sentence(tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "vb.ckpt")
    with pytest.raises(ValueError, match=r"vb\.ckpt has a different layout from the network: missing: all_modules\."):
        sgmse_weights(SpeechNCSNpp(8, 8, (1, 2), 2, (4,)), str(tmp_path / "vb.ckpt"))
    torch.save({"state_dict": {"body.told.0.weight": torch.ones(1)}}, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"no key of .*own\.ckpt starts with prefix 'dnn\.'"):
        sgmse_weights(network(), str(tmp_path / "own.ckpt"))
