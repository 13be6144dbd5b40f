"""Compute distances between two sets of images from their features, and read and write files of feature statistics."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.generation.extraction import ALONE, Shares, metric_name
from callbacks.generation.statistics import (
    FeatureMoments,
    Features,
    exact_distance,
    frechet_distance,
    inception_score,
    kernel_sums,
    moment_sums,
    moments_of,
    score_sums,
    subset_distances,
)
from datamodules.distributed.collectives import all_reduce_sum, broadcast
from datamodules.files.array_files import read_npz
from datamodules.files.whole_files import whole_file


class Described(NamedTuple):
    """The features of a set of images, and the moments of these features."""

    name: str
    moments: FeatureMoments
    feature: Features | None
    """Features; None if only the moments are known."""
    extractor: dict[str, Any] | None
    """Settings that identify the extractor; None if the file does not contain them."""


def compute_moments(
    name: str, feature: Features, extractor: dict[str, Any], shares: Shares, file: Path | None
) -> Described:
    """Compute the moments of features. Must be called on every rank; the work is sharded over ranks.

    Args:
        name: name of the set of images, for error messages.
        feature: features of the images, `[N, D]`, the same on all ranks.
        extractor: identity of the extractor.
        shares: rank, world size and device.
        file: cache file of the moments, which is read if it exists; None caches nothing.
    """
    if len(feature) < 2:
        raise ValueError(f"{name}: a covariance needs at least 2 images, got {len(feature)}")
    if file is not None and broadcast(file.is_file()):
        return read_statistics(file)._replace(name=name, feature=feature)
    rank, processes, device = shares.exact
    sums = all_reduce_sum(moment_sums(feature, device, rank, processes))
    result = Described(name, moments_of(sums, len(feature)), feature, extractor)
    if file is not None and rank == 0:
        write_statistics(file, result)
    return result


def statistics_file(feature: Features) -> Path:
    """Return the path of the file that caches the moments of features. It is next to the folder of the features."""
    entry = Path(str(feature.filename)).parent  # type: ignore[attr-defined]
    return entry.with_name(f"{entry.name}.npz")


def write_statistics(file: Path, images: Described) -> None:
    """Write to an `.npz` file: the moments, the extractor, and the number of images behind the moments.

    As in pytorch-fid and clean-fid, the keys of the moments are `mu` and `sigma`.
    """
    mean, covariance, count = images.moments
    with whole_file(file) as partial, partial.open("wb") as stream:
        said = json.dumps(images.extractor)
        np.savez(stream, mu=mean.numpy(), sigma=covariance.numpy(), count=np.array(count or 0), extractor=said)


def read_statistics(file: Path) -> Described:
    """Read statistics (`mu`, `sigma`) of `write_statistics`, pytorch-fid or clean-fid, or features (`pool_3`)."""
    arrays = read_npz(file, optional=("pool_3", "mu", "sigma", "count", "extractor"))
    said = _extractor(file, arrays.get("extractor"))
    if "pool_3" in arrays:
        feature = _real(file, "pool_3", arrays["pool_3"])
        if feature.ndim < 2:
            raise ValueError(f"{file}: pool_3 must be [N, D] or [N, D, 1, 1], got {list(feature.shape)}")
        return compute_moments(str(file), feature.reshape(len(feature), -1), {}, ALONE, None)._replace(extractor=said)
    if not {"mu", "sigma"} <= arrays.keys():
        read_npz(file, needed=("mu", "sigma, or features as pool_3"))  # raises an error that lists the contents
    mean, covariance = (torch.from_numpy(_real(file, key, arrays[key])).double() for key in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{file}: mu {list(mean.shape)} and sigma {list(covariance.shape)} must be [D] and [D, D]")
    if not torch.allclose(covariance, covariance.T, rtol=1e-3) or (covariance.diagonal() < 0).any():
        raise ValueError(f"{file}: sigma must be a covariance: symmetric, with a nonnegative diagonal")
    return Described(str(file), FeatureMoments(mean, covariance, _count(file, arrays.get("count"))), None, said)


def _real(file: Path, name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{file}: {name} must be finite real numbers, got {array.dtype}")
    if not (finite := np.isfinite(array)).all():
        raise ValueError(f"{file}: {name} must be finite real numbers, got {array[~finite].flat[0]}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _count(file: Path, array: NDArray[Any] | None) -> int | None:
    if array is None:
        return None
    if array.ndim or array.dtype.kind not in "fiu" or array % 1 != 0 or array < 0 or array == 1:
        raise ValueError(f"{file}: count must be a whole number of at least 2, or 0 if unknown, got {array}")
    return int(array) or None


def _extractor(file: Path, array: NDArray[Any] | None) -> dict[str, Any] | None:
    """Parse the description of an extractor: null, or a JSON object with name, digest and resize."""
    try:
        said = None if array is None else json.loads(str(array))
        if said is None or (said.keys() == {"name", "digest", "resize"} and isinstance(said["name"], str)):
            return said
    except (ValueError, RecursionError, AttributeError):
        pass
    raise ValueError(f"{file}: extractor must be null or a JSON object with name, digest and resize")


def refuse_other_extractor(first: Described, second: Described) -> None:
    """Reject two sets of statistics that come from different extractors."""
    if None not in (first.extractor, second.extractor) and first.extractor != second.extractor:
        raise ValueError(
            f"{first.name} was measured with the extractor {first.extractor}, and {second.name} with "
            f"{second.extractor}: they cannot be compared"
        )
    sizes = len(first.moments.mean), len(second.moments.mean)
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{first.name} has {sizes[0]} features and {second.name} has {sizes[1]}: their extractors differ"
        )


def generation_metrics(
    generated: Described,
    real: Described,
    classifier: Tensor | None = None,
    exact_kid: bool = False,
    seed: int = 0,
    shares: Shares = ALONE,
) -> dict[str, float]:
    """Compute FID, KID and IS. Must be called on every rank, with the same features.

    Args:
        generated: features of the generated images. IS depends only on these features.
        real: features of the real images.
        classifier: weights `[K, D]` of the classification layer for IS; None omits IS.
        exact_kid: whether to compute KID over all pairs of images. If false, 100 subsets of 1,000 images are used, from
            at most 10,000 real and 10,000 generated images.
        seed: random seed of the subsets.
        shares: rank, world size and device.

    Returns:
        Values by metric name. If there are at most as many images as features, the covariance is singular, and FID
        depends on the number of images. In this case, the name of FID includes this number.
    """
    refuse_other_extractor(generated, real)
    rank, processes, device = shares.exact
    sums: dict[str, Any] = {}
    if generated.feature is not None and real.feature is not None:
        sum_pairs = kernel_sums if exact_kid else subset_distances
        options: dict[str, Any] = {} if exact_kid else {"seed": seed}
        sums["kid"] = sum_pairs(generated.feature, real.feature, device=device, share=rank, shares=processes, **options)
    if generated.feature is not None and classifier is not None:
        sums["is"] = score_sums(generated.feature, classifier, device, rank, processes)
    sums = {name: all_reduce_sum(value) for name, value in sums.items()}
    results: dict[str, float] = {}
    if rank == 0:
        identity = generated.extractor or real.extractor
        counts = [count for count in (generated.moments.images, real.moments.images) if count is not None]
        fid, dimensions = metric_name("fid", identity), len(real.moments.mean)
        if counts and min(counts) <= dimensions:
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(
                f"{fid} of {min(counts)} images and {dimensions} features uses a singular covariance and is too high; "
                f"it is called {fid}_n{min(counts)}, and is only comparable between equal numbers of images"
            )
            fid = f"{fid}_n{min(counts)}"
        results[fid] = frechet_distance(generated.moments, real.moments)
        if "kid" in sums:
            sizes = (len(generated.feature), len(real.feature))  # type: ignore[arg-type]
            exact = exact_distance(sums["kid"], *sizes) if exact_kid else float(sums["kid"].mean())
            results[metric_name("kid", identity)] = exact
        if "is" in sums:
            results[metric_name("is", identity)] = inception_score(sums["is"], len(generated.feature))  # type: ignore[arg-type]
    return broadcast(results)
