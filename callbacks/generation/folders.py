"""Measure FID and KID of two sides, each a folder of images or a file of statistics, without a generative model."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datamodules.arguments import at_least

if TYPE_CHECKING:
    import torch

    from callbacks.generation.extraction import Extractor, Shares
    from callbacks.generation.measurement import Described


def read_side(
    path: Path, extractor: "Extractor | None", cache_dir: Path, batch_size: int, shares: "Shares"
) -> "Described":
    """Read the feature statistics from a file, or compute them for the images of a folder.

    Args:
        path: an .npz file of statistics, or a folder of images.
        extractor: network that computes features; None if both sides of the comparison are files of statistics.
        cache_dir: folder that caches features and statistics.
        batch_size: number of images that are processed as one batch.
        shares: rank, world size and device.
    """
    from callbacks.generation.extraction import features_of
    from callbacks.generation.image_lists import FolderImages
    from callbacks.generation.measurement import compute_moments, read_statistics, statistics_file

    if path.is_file():
        return read_statistics(path)
    images = FolderImages(path)
    assert extractor is not None
    feature = features_of(images, extractor, cache_dir, batch_size, shares)
    file = statistics_file(feature)
    side = compute_moments(str(path), feature, extractor.identity, shares, file)
    print(f"{path}: {len(images):,} images; statistics: {file}")
    return side


def device_named(name: str | None) -> "torch.device":
    """Return the device `name`. If it is None, return the GPU, or the CPU if there is no GPU."""
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


def score_folders(
    generated: Path,
    real: Path,
    weights: str | None,
    resize: Literal["legacy", "clean"],
    timm: str | None,
    exact_kid: bool,
    batch_size: int,
    cache_dir: Path,
    device: str | None,
) -> tuple[dict[str, float], str | None]:
    """Measure FID and KID between generated and real images, and IS of the generated images.

    Args:
        generated: `.npz` file or folder of the generated images. IS is computed only if the weights include a
            classifier.
        real: `.npz` file or folder of the real images.
        weights: file with the weights of FID's Inception network or of the timm network.
        resize: how images are resized for FID's Inception network: `legacy` or `clean`.
        timm: name of a timm network that replaces FID's Inception network.
        exact_kid: whether KID is computed over all pairs of images; if false, it is computed over random subsets.
        batch_size: number of images that are processed as one batch.
        cache_dir: folder that caches features and statistics.
        device: name of the device, see `device_named`.

    Returns:
        A pair: metrics by name, and a description of the images that KID uses. The description is None if KID is not
        computed.
    """
    from callbacks.generation.extraction import Extractor, Shares
    from callbacks.generation.measurement import generation_metrics
    from callbacks.generation.statistics import kid_basis
    from lightning_modules.backbones.factories import timm_model
    from lightning_modules.networks.fid_inception import FIDInception

    at_least(1, batch_size=batch_size)
    shares = Shares(device=device_named(device))
    extractor = None
    if not (generated.is_file() and real.is_file()):
        if timm is None:
            extractor = Extractor(FIDInception(weights, resize), None)
        else:
            network = timm_model(timm, num_classes=0, pretrained=weights is None, weights=weights)
            extractor = Extractor(network, timm)
    first, second = (read_side(path, extractor, cache_dir, batch_size, shares) for path in (generated, real))
    classifier = None if extractor is None else extractor.classifier
    results = generation_metrics(first, second, classifier, exact_kid, shares=shares)
    if first.feature is None or second.feature is None:
        return results, None
    return results, kid_basis(len(first.feature), len(second.feature), exact_kid)
