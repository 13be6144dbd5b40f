"""The number of pixels by which an image's sides must be divisible, read from a pipeline's configurations."""

import math
from pathlib import Path
from typing import Any

from datamodules.files.text_files import read_json_object


def size_multiple_of(pipeline: str, network: str, packing: int, local_files_only: bool = False) -> int | None:
    """Return a divisor of height and width that a pipeline requires; the loaded model may require a multiple of it.

    Args:
        pipeline: a folder written by `save_pretrained`, or a pipeline's name on the Hugging Face Hub, of which only two
            configurations are downloaded.
        network: name of the predicting network's folder, unet or transformer.
        packing: number of latent pixels in one input position of the network.
        local_files_only: never download.

    Returns:
        The number of pixels; None if the configurations are missing or of an unknown kind.
    """
    try:
        autoencoder, predicting = (_config(pipeline, part, local_files_only) for part in ("vae", network))
    except (OSError, ValueError):  # loading the pipeline says what is wrong
        return None
    levels = [autoencoder.get(key) for key in ("block_out_channels", "encoder_block_out_channels")]
    lengths = [len(value) - 1 for value in levels if isinstance(value, list)]
    if isinstance(each := autoencoder.get("temperal_downsample"), list):  # autoencoders that also take videos
        lengths.append(len(each))
    times = lengths[0] if lengths else None
    patch = predicting.get("patch_size", 1)
    if times is None or not 0 <= times < 16 or not isinstance(patch, int) or patch < 1:
        return None
    return 2**times * max(patch, math.isqrt(packing))


def _config(pipeline: str, part: str, local_files_only: bool) -> dict[str, Any]:
    folder = Path(pipeline).expanduser()
    if folder.is_dir():
        return read_json_object(folder / part / "config.json")
    from huggingface_hub import hf_hub_download

    return read_json_object(Path(hf_hub_download(pipeline, f"{part}/config.json", local_files_only=local_files_only)))
