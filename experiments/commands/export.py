"""Export the model of a run for use outside this project.

    python train.py export RUN_DIRECTORY --format torch

The command writes a folder with the program or the weights, `config.json` (inputs, output, class names) and a README
with the run's metrics and an example. A program computes the method's complete prediction, including normalisation,
averaged weights, ensembles and the smoothing of smoothed classifiers. It accepts images in [0, 1] and any batch size,
and any height and width if the method allows this. For a diffusion model, only the network is exported. The outputs of
the program are compared with those of the model. The formats are:
"""

import math
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.commands import first_line
from experiments.exporting import formats

MOST_VALUES = 1 << 28
"""Largest number of values of an image with which a model is traced: 1 GiB in float32."""


def arguments(parser: ArgumentParser) -> None:
    lines = [f"    {name:12} {first_line(f'{formats.__name__}.{name}')}" for name in formats.names()]
    parser.description = "\n".join([str(parser.description).rstrip() + "\n", *lines])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--format", choices=formats.names(), default="torch", help="default: torch")
    parser.add_argument("--output", type=Path, help="new folder; default: export_<format> in the run directory")
    parser.add_argument("--checkpoint", choices=("best", "last"), help="default: the one that the run tested")
    parser.add_argument(
        "--image_shape", type=int, nargs=3, metavar=("C", "H", "W"), help="shape of an image; default: that of the data"
    )
    parser.add_argument(
        "--preprocess",
        action="store_true",
        help="build resizing and cropping into the program of a classifier or segmenter, for images of any size",
    )
    sigma_help = "standard deviation of a smoothed classifier's noise, in pixel units; 0: no smoothing"
    parser.add_argument("--sigma", type=float, help=f"{sigma_help}; default: that of training")


def run(options: Namespace) -> int:
    from datamodules.files.image_files import Crop
    from datamodules.files.whole_files import check_new
    from experiments.exporting.folder import Export, write_adapters, write_export
    from experiments.exporting.preprocessing import preprocessing, with_preprocessing
    from experiments.exporting.program import trace
    from experiments.load_run import load_run
    from lightning_modules.interfaces import CroppedImageSource, Exportable, FixedImageShape

    output = options.output or options.run / f"export_{options.format}"
    chosen = formats.load_format(options.format)
    check_new(output)
    module, data = load_run(options.run, options.checkpoint)
    if hasattr(chosen, "write_adapters"):
        write_adapters(output, chosen, options.run, module)
        print(f"written: {output}")
        return 0
    if not isinstance(module, Exportable):
        raise ValueError(
            f"{type(module).__name__} cannot be exported: only classifiers, segmenters, denoisers, restorers and "
            f"diffusion models can"
        )
    exported = module.export_function(options.sigma)
    sizes = dict(exported.sizes)
    trained = None
    with suppress(OSError, ValueError):  # the data may be in files that are not on this machine
        trained = data.image_shape if isinstance(data, FixedImageShape) else None
    cropped = data if trained and isinstance(data, CroppedImageSource) else None
    crop = None if cropped is None else cropped.crop
    if options.preprocess:
        if not hasattr(chosen, "PROGRAM"):
            raise ValueError("--preprocess needs a program: give --format torch or onnx")
        if crop is None and cropped and trained and len(trained) == 3 and exported.kind != "segmenter":
            crop = Crop(trained[1], trained[1])  # as `predict` reads new images
        if options.image_shape or trained is None or crop is None or tuple(trained[1:]) != crop.shape:
            raise ValueError(
                "--preprocess needs the square images of a classifier, or of a segmenter with files of one size "
                "(MaskFolders), without --image_shape"
            )
        exported, more = with_preprocessing(exported, crop)
        sizes |= {"C": trained[0], "H": crop.resize, "W": crop.resize, **more}
    preprocessed = preprocessing(trained, crop, options.preprocess)
    if options.image_shape or not sizes:
        shape = options.image_shape or trained
        if shape is None or len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"images of {type(data).__name__} have no known shape: give --image_shape C H W")
        if math.prod(shape) > MOST_VALUES:
            raise ValueError(
                f"--image_shape {' '.join(map(str, shape))}: an image may have at most {MOST_VALUES} values"
            )
        sizes |= dict(zip("CHW", shape, strict=True))
    with exported.weights:
        traced = trace(module, exported, sizes)
        export = Export(module, exported, traced, _plain(module), _class_names(data), preprocessed)
        write_export(output, chosen, options.run, export)
    print(f"written: {output}")
    if traced.multiple == 0 and {"H", "W"} <= sizes.keys():
        size = f"{sizes['H']} x {sizes['W']}"
        print(f"height and width are fixed at {size}: --image_shape C H W exports the model for another size")
    return 0


def _class_names(data: Any) -> list[str] | None:
    """Return the class names, or None if they are unknown or are in files that are not on this machine."""
    from lightning_modules.interfaces import NamedClasses

    try:
        names = data.class_names if isinstance(data, NamedClasses) else None
    except (OSError, ValueError):
        return None
    return None if names is None else [str(name) for name in names]


def _plain(module: Any) -> dict[str, Any] | None:
    """Return the network's weights without the layers that only training needs, or None if there are no such layers."""
    from lightning_modules.backbones.adapters import adapter_names
    from lightning_modules.backbones.diffusion.export import merge_adapters
    from lightning_modules.interfaces import EffectiveNetwork

    if isinstance(module, EffectiveNetwork):
        return module.effective_weights()[0]
    network: Any = getattr(module, "network", None)
    while network is not None and hasattr(network, "network"):
        network = network.network
    if network is None or not adapter_names(network):
        return None
    return merge_adapters(network, network.state_dict())
