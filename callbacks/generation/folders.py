"""Score two folders of images, or statistics of images, by FID and KID, without any model.

The first side is the generated one, of which IS is computed where the weights have a classifier. A side is a folder of
images, with any subfolders, or an .npz file: mu and sigma as pytorch-fid, clean-fid and this project write them, or
features as pool_3. Of folders, features and statistics are kept in the cache; the statistics there can be given in the
folder's place. KID needs the images, or features, of both sides.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.arguments import at_least

if TYPE_CHECKING:
    import torch

    from callbacks.generation.extraction import Extractor, Shares
    from callbacks.generation.measurement import Described


def read_side(
    path: Path, extractor: "Extractor | None", cache_dir: Path, batch_size: int, shares: "Shares"
) -> "Described":
    """Read statistics, or measure the images of a folder.

    Args:
        path: an .npz file or a folder.
        extractor: the network; None where no side is a folder.
        cache_dir: folder that keeps features and statistics.
        batch_size: images at once.
        shares: where the network computes.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if a file is damaged, or the images do not suit the extractor.
    """
    from callbacks.generation.extraction import features_of
    from callbacks.generation.image_lists import FolderImages
    from callbacks.generation.measurement import described, read_statistics, statistics_file

    if path.is_file():
        return read_statistics(path)
    images = FolderImages(path)
    assert extractor is not None
    feature = features_of(images, extractor, cache_dir, batch_size, shares)
    file = statistics_file(feature)
    side = described(str(path), feature, extractor.identity, shares, file)
    print(f"{path}: {len(images):,} images; statistics: {file}")
    return side


def device_named(name: str | None) -> "torch.device":
    """Find a device of this machine that can compute; without a name the GPU, or the processor where there is none.

    Raises:
        ValueError: names those that there are.
    """
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found += ["mps", "mps:0"]
    if name is None:
        name = "cuda" if "cuda" in found else "cpu"
    if name not in found:
        raise ValueError(f"--device must be one of {', '.join(found)} on this machine, got {name!r}")
    return torch.device(name)


def main(argv: Sequence[str], parser: ArgumentParser) -> int:
    """Run the subcommand.

    Args:
        argv: what follows `train.py fid`.
        parser: without arguments yet; says in a `ValueError` what is wrong with them.

    Returns:
        Exit status: 0, or 2 for bad input.
    """
    parser.add_argument("generated", type=Path, help="folder of images, or .npz statistics")
    parser.add_argument("real", type=Path, help="folder of images, or .npz statistics, to compare with")
    parser.add_argument("--weights", help="file of the weights of FID's Inception, or of the timm network")
    parser.add_argument("--resize", default="legacy", help="legacy (default), as the first FID, or clean, as clean-fid")
    parser.add_argument("--timm", help="name of a timm network in place of FID's Inception: the metric is fd_<name>")
    parser.add_argument("--exact_kid", action="store_true", help="KID of all pairs, not of 100 subsets of 1,000")
    parser.add_argument("--batch_size", type=int, default=50, help="images at once; default: 50")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/features"), help="default: runs/features")
    parser.add_argument("--device", help="cpu, cuda, mps; default: cuda where there is a GPU, else cpu")
    try:
        options = parser.parse_args(argv)
        from callbacks.generation.extraction import Extractor, Shares
        from callbacks.generation.measurement import distances
        from callbacks.generation.statistics import kid_basis
        from lightning_modules.backbones.factories import timm_model
        from lightning_modules.networks.fid_inception import FIDInception

        at_least(1, batch_size=options.batch_size)
        device = device_named(options.device)
        extractor = None
        if not (options.generated.is_file() and options.real.is_file()):
            if options.timm is None:
                extractor = Extractor(FIDInception(options.weights, options.resize), None)
            else:
                network = timm_model(
                    options.timm, num_classes=0, pretrained=options.weights is None, weights=options.weights
                )
                extractor = Extractor(network, options.timm)
        shares = Shares(device=device)
        sides = [
            read_side(path, extractor, options.cache_dir, options.batch_size, shares)
            for path in (options.generated, options.real)
        ]
        results = distances(
            sides[0], sides[1], None if extractor is None else extractor.classifier, options.exact_kid, shares=shares
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in results.items():
        print(f"{name} {value:.6g}")
    features = [side.feature for side in sides]
    if all(feature is not None for feature in features):
        first, second = map(len, features)  # type: ignore[arg-type]
        print(f"KID: {kid_basis(first, second, options.exact_kid)}")
    return 0
