"""Score two folders of images, or statistics of images, by FID and KID, without any model.

The first side is the generated one, of which IS is computed where the weights have a classifier. A side is a folder of
images, with any subfolders, or an .npz file: mu and sigma as pytorch-fid, clean-fid and this project write them, or
features as pool_3. Of folders, features and statistics are kept in the cache; the statistics there can be given in the
folder's place. KID needs the images, or features, of both sides.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("generated", type=Path, help="folder of images, or .npz statistics")
    parser.add_argument("real", type=Path, help="folder of images, or .npz statistics, to compare with")
    parser.add_argument("--weights", help="file of the weights of FID's Inception, or of the timm network")
    parser.add_argument("--resize", default="legacy", help="legacy (default), as the first FID, or clean, as clean-fid")
    parser.add_argument("--timm", help="name of a timm network in place of FID's Inception: the metric is fd_<name>")
    parser.add_argument("--exact_kid", action="store_true", help="KID of all pairs, not of 100 subsets of 1,000")
    parser.add_argument("--batch_size", type=int, default=50, help="images at once; default: 50")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/features"), help="default: runs/features")
    parser.add_argument("--device", help="cpu, cuda, mps; default: cuda where there is a GPU, else cpu")


def run(options: Namespace) -> int:
    from callbacks.generation.folders import scores

    results, basis = scores(**vars(options))
    for name, value in results.items():
        print(f"{name} {value:.6g}")
    if basis is not None:
        print(f"KID: {basis}")
    return 0
