"""Load the authors' checkpoints of SGMSE+ into `SpeechNCSNpp`.

The files are Lightning checkpoints. They contain the weights of the network `dnn`, the averaged weights without names,
and hyperparameters. One hyperparameter is a class of the authors' code; it is ignored.

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830; names and order as in the authors' code.
"""

from collections.abc import Mapping
from typing import Any

from datamodules.files.tensor_files import read_tensors
from lightning_modules.backbones.weights import load, on_meta, weights_file
from lightning_modules.networks.published_ncsnpp import in_own_names, published_names
from lightning_modules.restoration.sgmse.speech_ncsnpp import SpeechNCSNpp

REQUIRED: dict[str, Any] = {"backbone": "ncsnpp", "sde": "ouve", "centered": True, "scale_by_sigma": True}
"""Required values of hyperparameters that a checkpoint records, so that `SGMSE` agrees with the authors' code."""


def sgmse_weights(network: SpeechNCSNpp, path: str) -> SpeechNCSNpp:
    """Load the averaged weights from a checkpoint of sp-uhh/sgmse whose backbone is `ncsnpp`.

    If the network is on the meta device, where parameters have no values, the file is not read.

    Args:
        network: `SpeechNCSNpp` with the layout of the file; the default arguments fit the published checkpoints.
        path: downloaded file, such as `train_vb_29nqe0uh_epoch=115.ckpt` of VoiceBank-DEMAND.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or its network or process does not match; the message names the mismatch.
    """
    if on_meta(network):
        return network
    file = weights_file(path)
    content = read_tensors(file, ignore_objects=True)
    given: Any = content.get("hyper_parameters") if isinstance(content, Mapping) else None
    for key, value in REQUIRED.items():
        if isinstance(given, Mapping) and given.get(key, value) != value:
            raise ValueError(f"{file}: hyper_parameters.{key} must be {value}, got {given[key]!r}")
    names = {f"output_layer.{kind}": f"mix.{kind}" for kind in ("weight", "bias")}
    names |= {published: f"body.{own}" for published, own in published_names(network.body).items()}
    load(network, in_own_names(content, names, file, "dnn."), file)
    return network
