"""Record how the images of a run were resized and cropped, or build this into the exported program."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.files.image_files import Crop, WholeImage

RAW_CODE = """import numpy as np
from PIL import Image

picture = Image.open("picture.jpg").convert("{mode}")  # any size; the program resizes and crops it
image = np.atleast_3d(np.asarray(picture, "float32")).transpose(2, 0, 1)[None] / 255  # [1, {channels}, H, W], in [0, 1]
"""
CODE = """import numpy as np
from PIL import Image

picture = Image.open("picture.jpg").convert("RGB")
short = min(picture.size)
picture = picture.resize([side * {resize} // short for side in picture.size], Image.Resampling.{resampling})
left, top = (round((side - {size}) / 2) for side in picture.size)
picture = picture.crop((left, top, left + {size}, top + {size}))
image = np.asarray(picture, "float32").transpose(2, 0, 1)[None] / 255  # [1, 3, {size}, {size}], in [0, 1]
"""
WHOLE_CODE = """import numpy as np
from PIL import Image

picture = Image.open("picture.jpg").convert("{mode}").resize(({size}, {size}), Image.Resampling.{resampling})
image = np.atleast_3d(np.asarray(picture, "float32")).transpose(2, 0, 1)[None] / 255  # [1, {channels}, {size}, {size}]
"""


def preprocessing(shape: Sequence[int] | None, crop: Crop | None, built_in: bool = False) -> dict[str, Any]:
    """Return the keys for `config.json`: shape of the training images and, if known, how images are resized.

    Args:
        shape: shape C, H, W of the training images. None if it is unknown.
        crop: how images are resized and cropped in evaluation. None if they are not.
        built_in: whether the program resizes and crops images itself.
    """
    found: dict[str, Any] = {} if shape is None else {"image_shape": list(shape)}
    if isinstance(crop, WholeImage):
        found |= {"resize": [crop.size, crop.size], "interpolation": crop.interpolation}
    elif crop is not None:
        found |= {"resize_short_side": crop.resize, "interpolation": crop.interpolation, "centre_crop": crop.size}
    if crop is not None and crop.data_range is not None:
        found["data_range"] = crop.data_range
    return found | {"built_in": True} if built_in else found


def with_preprocessing(exported: Any, crop: Crop) -> tuple[Any, Mapping[str, int]]:
    """Let an exported function resize and crop its images, so that it takes images of any size.

    Args:
        exported: a `lightning_modules.interfaces.Exported`, whose first input are images `[B, C, H, W]` in [0, 1].
        crop: how images are resized and cropped in evaluation.

    Returns:
        The new `Exported`, and the sizes of its fixed dimensions by name.
    """
    (name, image), *others = exported.inputs.items()
    cropped = {key: each._replace(dimensions=each.dimensions.replace("H W", "R S")) for key, each in others}
    raw = image._replace(description=f"{image.description}, of any size: the program resizes and crops them")

    def function(image: Tensor, *rest: Tensor) -> Tensor:
        return exported.function(resize_and_crop(image, crop), *rest)

    dimensions = exported.dimensions.replace("H W", "R S")
    changed = exported._replace(function=function, inputs={name: raw, **cropped}, dimensions=dimensions)
    return changed, {"R": crop.size, "S": crop.size}


def resize_and_crop(image: Tensor, crop: Crop) -> Tensor:
    """Resize and crop images like Pillow, including its rounding to 8 bits after each of the two passes.

    Images that keep their depth (`crop.data_range`) are not rounded. It is computed in float64, so that the rounding is
    the same on every runtime. Only elementwise operations and matrix products are used, which every export format has
    for dynamic sizes.

    Args:
        image: images in [0, 1], `[B, C, H, W]`, of any height and width.
        crop: length of the short side after resizing, side of the central square, and interpolation.

    Returns:
        Images in [0, 1], `[B, C, crop.size, crop.size]`.
    """
    places = [torch.arange(side, device=image.device) for side in image.shape[2:]]
    sides = [place[-1] + 1 for place in places]
    shorts = sides if isinstance(crop, WholeImage) else [torch.minimum(*sides)] * 2
    down, across = (_weights(place, short, crop) for place, short in zip(places, shorts, strict=True))
    if crop.data_range is not None:
        return (down @ (image.double() @ across.T)).to(image.dtype)
    wide = _eight_bits(_eight_bits(image.double() * 255) @ across.T)
    return (_eight_bits(down @ wide) / 255).to(image.dtype)


def _eight_bits(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _weights(place: Tensor, short: Tensor, crop: Crop) -> Tensor:
    """Return the weights of the pixels of one side, `[crop.size, length]`, for the pixels of the central square.

    Args:
        place: 0 ... length - 1.
        short: length of the side that is resized to `crop.resize`.
        crop: how images are resized and cropped.
    """
    length = place[-1] + 1
    resized = torch.div(length * crop.resize, short, rounding_mode="floor")
    first = ((resized - crop.size).double() / 2).round()  # to even, as in Python
    step = length.double() / resized.double()
    begin, end = first * step, torch.minimum((first + crop.size) * step, length.double())
    scale = (end - begin) / crop.size
    centre = begin + (torch.arange(crop.size, device=place.device).double() + 0.5) * scale
    distance = ((place.double() + 0.5 - centre[:, None]) / scale.clamp(min=1)).abs()
    if crop.interpolation == "bilinear":
        weight = (1 - distance).clamp(min=0)
    else:  # Keys' cubic convolution with a = -1/2
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weight = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
    return weight / weight.sum(dim=1, keepdim=True)


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
    if "interpolation" not in preprocessed:
        return ["## Preprocessing", *said]
    method, built_in = preprocessed["interpolation"], preprocessed.get("built_in", False)
    channels, size = preprocessed["image_shape"][0], preprocessed["image_shape"][-1]
    mode, whole = "L" if channels == 1 else "RGB", "resize" in preprocessed
    resize = size if whole else preprocessed["resize_short_side"]
    said.append(
        f"Whole images were resized to {size} x {size} pixels ({method}), regardless of their aspect ratio."
        if whole
        else f"In validation and testing, images were resized to {resize} pixels on the short side ({method}), and the "
        f"central {size} x {size} pixels were cut out."
    )
    said += ["The program does this itself."] * built_in
    if (white := preprocessed.get("data_range")) is not None:
        said.append(f"The images had more than 8 bits: read all of them, and divide by {white:g}, the value of white.")
        return ["## Preprocessing", " ".join(said)]
    said.append("Read new images as follows:" if built_in else "Prepare new images in the same way:")
    code = RAW_CODE if built_in else WHOLE_CODE if whole else CODE
    code = code.format(resize=resize, size=size, resampling=method.upper(), mode=mode, channels=channels)
    notes = []
    if built_in and not whole:
        notes.append(
            "For a JPEG file of at least four times this size, the run decoded at a lower resolution: the output may "
            "differ slightly."
        )
    return ["## Preprocessing", " ".join(said), f"```python\n{code}```", *notes]
