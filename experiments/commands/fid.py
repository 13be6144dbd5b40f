"""Compute FID and KID between two folders of images, or files of statistics, without a generative model.

The first argument is for generated images, and the second for real images. If the Inception weights include a
classifier, the Inception Score (IS) of the generated images is also computed. An argument is a folder of images,
including subfolders, or an .npz file. An .npz file contains either mu and sigma, as written by pytorch-fid, clean-fid
and this project, or features pool_3. The features and statistics of folders are cached, and the file with the cached
statistics can be given instead of the folder. KID requires images or features for both arguments; statistics are not
sufficient.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("generated", type=Path, help="folder of images, or .npz statistics")
    parser.add_argument("real", type=Path, help="reference: folder of images, or .npz statistics")
    parser.add_argument("--weights", help="file with weights of FID's Inception, or of the timm network")
    parser.add_argument(
        "--resize", default="legacy", help="legacy (default), as in the original FID, or clean, as in clean-fid"
    )
    parser.add_argument("--timm", help="timm network to use instead of FID's Inception; the metric is fd_<name>")
    parser.add_argument("--exact_kid", action="store_true", help="KID over all pairs instead of 100 subsets of 1,000")
    parser.add_argument("--batch_size", type=int, default=50, help="images per batch; default: 50")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs/features"), help="default: runs/features")
    parser.add_argument("--device", help="cpu, cuda or mps; default: cuda if available, else cpu")


def run(options: Namespace) -> int:
    from callbacks.generation.folders import score_folders

    results, basis = score_folders(**vars(options))
    for name, value in results.items():
        print(f"{name} {value:.6g}")
    if basis is not None:
        print(f"KID: {basis}")
    return 0
