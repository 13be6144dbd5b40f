"""Load a text-to-image pipeline as a model of its family."""

from lightning_modules.backbones.adaptation import Adapters, Tuning
from lightning_modules.backbones.diffusion.pipelines import family_of
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, Weights, families


def text_to_image_pipeline(
    pipeline: str,
    weights: Weights = Weights(),
    tuning: Tuning = "frozen",
    adapters: Adapters = Adapters(),
    offload_text_encoders: bool = False,
) -> TextToImage:
    """Load a text-to-image pipeline with the class of its model family, such as `TextToImage` or `Flux`.

    Args:
        pipeline: local folder written by `save_pretrained`, or name of a pipeline on the Hugging Face Hub.
        weights: files, precision and quantisation of the weights.
        tuning: `full` trains all parameters of the network, `lora` trains only adapters in its attention, and `frozen`
            trains nothing.
        adapters: settings of the adapters.
        offload_text_encoders: keep the text encoders on the CPU, and embed prompts there.

    Raises:
        FileNotFoundError: if the pipeline is neither on disk nor on the Hub.
        ValueError: if the pipeline does not belong to any family; the message names the pipeline's network and all
            families.
    """
    model = family_of(pipeline, families(), weights.local_files_only)
    if model.frame_multiple is not None:
        raise ValueError(f"{pipeline} generates clips, and not images: use {model.__module__}.{model.__name__}")
    return model(pipeline, weights, tuning, adapters, offload_text_encoders=offload_text_encoders)


text_to_image_pipeline.needs_captions = True  # type: ignore[attr-defined] # as every family, for checks before loading
