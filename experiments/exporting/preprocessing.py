"""Record how the images of a run were resized and cropped, so that new images can be prepared in the same way."""

import math
from collections.abc import Sequence
from typing import Any

from datamodules.files.image_files import Crop

CODE = """import numpy as np
from PIL import Image

picture = Image.open("picture.jpg").convert("RGB")
short = min(picture.size)
picture = picture.resize([side * {resize} // short for side in picture.size], Image.Resampling.{resampling})
left, top = (round((side - {size}) / 2) for side in picture.size)
picture = picture.crop((left, top, left + {size}, top + {size}))
image = np.asarray(picture, "float32").transpose(2, 0, 1)[None] / 255  # [1, 3, {size}, {size}], in [0, 1]
"""


def preprocessing(shape: Sequence[int] | None, crop: Crop | None) -> dict[str, Any]:
    """Return the keys for `config.json`: shape of the training images and, if known, how images are resized.

    Args:
        shape: shape C, H, W of the training images. None if it is unknown.
        crop: how images are resized and cropped in evaluation. None if they are not.
    """
    found: dict[str, Any] = {} if shape is None else {"image_shape": list(shape)}
    if crop is not None:
        found |= {"resize_short_side": crop.resize, "interpolation": crop.interpolation, "centre_crop": crop.size}
    return found


def timm_keys(preprocessed: dict[str, Any]) -> dict[str, Any]:
    """Return the same rule as keys of timm's `pretrained_cfg`, from which `create_transform` builds the transform."""
    if "centre_crop" not in preprocessed:
        return {}
    share = preprocessed["centre_crop"] / preprocessed["resize_short_side"]
    share = math.nextafter(share, 0)  # timm rounds size / share down
    return {"crop_pct": share, "crop_mode": "center", "interpolation": preprocessed["interpolation"]}


def section(preprocessed: dict[str, Any]) -> list[str]:
    """Return the parts of the README's section on preprocessing; it is empty if nothing is known."""
    if not preprocessed:
        return []
    said = []
    if "image_shape" in preprocessed:
        shape = " x ".join(map(str, preprocessed["image_shape"]))
        said.append(f"The training images had the shape {shape} (C x H x W).")
    if "centre_crop" not in preprocessed:
        return ["## Preprocessing", *said]
    resize, size, method = (preprocessed[key] for key in ("resize_short_side", "centre_crop", "interpolation"))
    said.append(
        f"In validation and testing, images were resized to {resize} pixels on the short side ({method}), and the "
        f"central {size} x {size} pixels were cut out. Prepare new images in the same way:"
    )
    code = CODE.format(resize=resize, size=size, resampling=method.upper())
    return ["## Preprocessing", " ".join(said), f"```python\n{code}```"]
