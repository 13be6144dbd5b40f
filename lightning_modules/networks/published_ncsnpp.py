"""Load the authors' checkpoints of score models into `NCSNpp`.

In the published files, all layers of a network are in one list, `all_modules`, numbered in the order of the forward
pass. The numbering includes normalisations, and the convolutions of the pyramids and the output. The weights of `NIN`,
linear maps over channels, are transposed. The averaged weights are in `shadow_params`, a list without names, in the
order of the parameters. In older files, this list leaves out the random frequencies of the embedding, which are not
trained.

Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021, arXiv
2011.13456; names and order as in the authors' PyTorch code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import GaussianFourierProjection
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from datamodules.files.tensor_files import read_tensors
from lightning_modules.backbones.weights import join_names, load, on_meta, weights_file, weights_in
from lightning_modules.networks.ncsnpp import NCSNpp

RESIDUAL = {  # layers of a residual block, in the order of the authors' code
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "time_emb_proj",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}
ATTENTION = {"NIN_0": "to_q", "NIN_1": "to_k", "NIN_2": "to_v", "NIN_3": "to_out.0"}
FREQUENCIES = "embedding.weight"


def score_sde_weights(network: NCSNpp, path: str) -> NCSNpp:
    """Load the averaged weights of a checkpoint of yang-song/score_sde_pytorch into a network of the same layout.

    If the network is on the meta device, the file is not read, because parameters on this device have no values.

    Args:
        network: `NCSNpp` with the arguments of the checkpoint's configuration.
        path: downloaded file, such as `checkpoint_24.pth` of `ve/cifar10_ncsnpp_continuous`. If the file has no
            averaged weights, its trained weights are loaded.
    """
    if on_meta(network):
        return network
    file = weights_file(path)
    content = read_tensors(file)
    load(network, in_own_names(content, published_names(network), file), file)
    return network


def published_names(network: NCSNpp) -> dict[str, str]:
    """Map the published name of each parameter to its name in `network`, in the order of the authors' parameters."""
    names: dict[str, str] = {}
    for number, own in enumerate(_layers(network)):
        layer = network.get_submodule(own)
        published = f"all_modules.{number}"
        if isinstance(layer, GaussianFourierProjection):
            names[f"{published}.W"] = FREQUENCIES
        elif isinstance(layer, ResnetBlock2D):
            for theirs, part in RESIDUAL.items():
                if getattr(layer, part) is not None:
                    names |= _weight_and_bias(f"{published}.{theirs}", f"{own}.{part}")
        elif isinstance(layer, Attention):
            names |= _weight_and_bias(f"{published}.GroupNorm_0", f"{own}.group_norm")
            for theirs, part in ATTENTION.items():
                names |= {f"{published}.{theirs}.W": f"{own}.{part}.weight"}
                names |= {f"{published}.{theirs}.b": f"{own}.{part}.bias"}
        elif own.endswith("pyramid"):  # a 1x1 convolution, or a convolution in diffusers' class for downsampling
            convolution = isinstance(layer, nn.Conv2d)
            published += ".Conv_0" if convolution else ".Conv2d_0"
            names |= _weight_and_bias(published, own if convolution else f"{own}.Conv2d_0")
        else:
            names |= _weight_and_bias(published, own)
    return names


def in_own_names(content: Any, names: Mapping[str, str], file: Path, prefix: str = "") -> dict[str, Tensor]:
    """Convert a published file to a state dict with the names of `NCSNpp`; use averaged weights if the file has them.

    Args:
        content: content of the file: a state dict, possibly nested, possibly with an entry `ema` next to it.
        names: name in `NCSNpp` of each published parameter, in the order of the authors' parameters.
        file: path of the file, for error messages.
        prefix: prefix of the keys to use; it is removed from these keys, and other keys of the state dict are left out.
    """
    weights = weights_in(content, file, prefix)
    weights.pop("sigmas", None)  # the noise levels of discrete models; here, the process defines them
    problems = [
        f"{what}: {join_names(keys)}"
        for what, keys in (
            ("missing", [name for name in names if name not in weights]),
            ("unexpected", [key for key in weights if key not in names]),
        )
        if keys
    ]
    if problems:
        raise ValueError(f"{file} has a different layout from the network: {'; '.join(problems)}")
    if isinstance(content, Mapping) and "ema" in content:
        weights |= _average(content["ema"], names, file)
    return {own: _transpose(weights[name]) if name.endswith(".W") else weights[name] for name, own in names.items()}


def _average(average: Any, names: Mapping[str, str], file: Path) -> dict[str, Tensor]:
    """Return the averaged weights that a file contains, in a dict whose keys are the published names."""
    values = average.get("shadow_params") if isinstance(average, Mapping) else None
    trained = [name for name, own in names.items() if not own.endswith(FREQUENCIES)]
    for order in (list(names), trained):
        if isinstance(values, list) and len(values) == len(order) and all(isinstance(each, Tensor) for each in values):
            return dict(zip(order, values, strict=True))
    found = f"{len(values)} values" if isinstance(values, list) else f"a {type(values).__name__}"
    raise ValueError(f"{file}: ema.shadow_params must be a list of {len(trained)} tensors, got {found}")


def _transpose(weight: Tensor) -> Tensor:
    """Transpose the weight matrix of a linear map over channels. Return all other tensors unchanged."""
    return weight.T if weight.ndim == 2 else weight


def _layers(network: NCSNpp) -> Iterator[str]:
    """Yield the names of the layers of `network`, in the order of the authors' list `all_modules`."""
    if isinstance(network.embedding, GaussianFourierProjection):
        yield "embedding"
    yield from ("told.0", "told.2", "first")
    level: Any
    for number, level in enumerate(network.down):
        for place, attention in enumerate(level.attentions):
            yield f"down.{number}.blocks.{place}"
            if isinstance(attention, Attention):
                yield f"down.{number}.attentions.{place}"
        yield from (f"down.{number}.{name}" for name in ("resize", "pyramid") if getattr(level, name) is not None)
    yield from ("middle.0", "middle.1", "middle.2")
    for number, level in enumerate(network.up):
        yield from (f"up.{number}.blocks.{place}" for place in range(len(level.blocks)))
        if isinstance(level.attentions[0], Attention):
            yield f"up.{number}.attentions.0"
        if level.pyramid is not None:
            yield from (f"up.{number}.pyramid.0", f"up.{number}.pyramid.2")
        if level.resize is not None:
            yield f"up.{number}.resize"
    if network.last is not None:
        yield from ("last.0", "last.2")


def _weight_and_bias(published: str, own: str) -> dict[str, str]:
    return {f"{published}.{kind}": f"{own}.{kind}" for kind in ("weight", "bias")}
