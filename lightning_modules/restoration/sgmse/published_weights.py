"""Load the authors' checkpoints of SGMSE+ into `SpeechNCSNpp`.

The files are Lightning checkpoints. They contain the network `dnn`, averaged weights without names, and
hyperparameters, among them a class of the authors' code. The class is ignored.

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
"""Hyperparameters of checkpoints for which `SGMSE` with `SpeechNCSNpp` computes what the authors' code does."""


def with_published_weights(network: SpeechNCSNpp, path: str) -> SpeechNCSNpp:
    """Load the averaged weights of a checkpoint of sp-uhh/sgmse with the backbone `ncsnpp`.

    Nothing is read on the meta device, because its parameters have no values.

    Args:
        network: `SpeechNCSNpp` of the same layout; the default arguments are those of the published checkpoints.
        path: downloaded file, such as `train_vb_29nqe0uh_epoch=115.ckpt` of VoiceBank-DEMAND.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or if its network or process is another one; the message names the mismatch.
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
