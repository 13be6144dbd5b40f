import inspect
from typing import Any

from datamodules.classification.image_sets import ImageSet
from datamodules.classification.labelled_images import LabelledImages

LOADER = set(inspect.signature(LabelledImages.__init__).parameters) - {"self", "images"}


def loaded(kind: type[ImageSet], *args: Any, **options: Any) -> LabelledImages:
    """Batches of a set of this kind; options go to whoever knows them."""
    loader = {key: options.pop(key) for key in [*options] if key in LOADER}
    return LabelledImages(kind(*args, **options), **loader)
