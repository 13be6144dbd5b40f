"""Build text classifiers and text encoders from transformers by name, such as BERT and T5."""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.files.limits import sentence
from lightning_modules.backbones.adaptation import Precision, Tuning, adapt
from lightning_modules.backbones.diffusion.pipelines import need_transformers, quiet_transformers
from lightning_modules.backbones.weights import (
    check_pretrained,
    folder_or_name,
    from_pretrained,
    join_names,
    new_network,
)


class TextClassifier(nn.Module):
    """Wrap a transformers network for sequence classification so that it returns only its logits, `[B, K]`.

    Args:
        network: network that receives a tokenizer's output, and returns an object with the attribute `logits`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        return self.network(**text).logits


class TextEncoder(nn.Module):
    """Wrap a transformers network so that it returns features, `[B, D]`: the mean of the last hidden states.

    The mean is taken over all tokens except padding.

    Args:
        network: network that receives a tokenizer's output, and returns an object with the attribute
            `last_hidden_state`, `[B, T, D]`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        hidden = self.network(**text).last_hidden_state
        mask = text["attention_mask"].to(hidden.dtype)[..., None]
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


class TextToTextClassifier(nn.Module):
    """Wrap an encoder-decoder from transformers as a classifier; each of the K classes is one answer token.

    Args:
        network: text-to-text model, such as T5.
        answers: vocabulary indices of the K answer tokens, in the order of the classes.
    """

    answers: Tensor

    def __init__(self, network: Any, answers: list[int]) -> None:
        super().__init__()
        self.network = network
        start = getattr(network.config, "decoder_start_token_id", None)
        self.start: int = network.config.pad_token_id if start is None else start
        self.register_buffer("answers", torch.tensor(answers), persistent=False)

    def forward(self, text: dict[str, Tensor]) -> Tensor:
        tokens = text["input_ids"]
        start = torch.full_like(tokens[:, :1], self.start)
        output = self.network(**text, decoder_input_ids=start, use_cache=False)
        return output.logits[:, 0].index_select(1, self.answers)


def transformers_classifier(
    name_or_path: str,
    num_classes: int,
    architecture: dict[str, Any] | None = None,
    pretrained: bool = True,
    tuning: Tuning = "full",
    dtype: Precision | None = None,
    **adaptation: Any,
) -> nn.Module:
    """Build a text classifier from transformers, which computes logits `[B, num_classes]` from its tokenizer's output.

    Encoders (BERT, RoBERTa, ...) receive the classification head of transformers, which is newly initialised.
    Encoder-decoders (T5) answer with a class index (0, 1, ...), as in text-to-text training. Each class index is
    tokenised, and its first token provides the logit of the class. On the meta device, where parameters have no values,
    no weights are read or downloaded.

    Args:
        name_or_path: local folder written by `save_pretrained`, or name of a model on the Hugging Face Hub.
        num_classes: number of classes, K. An encoder with one class returns one real number, for regression.
        architecture: config from which the network is built if no weights are read (with `pretrained: false`, or on the
            meta device): a dictionary with `model_type`, such as bert or t5, and the network's settings. None reads the
            config of `name_or_path`.
        pretrained: load the weights; if false, the weights are initialised randomly.
        tuning: full trains all parameters, lora trains adapters and the new classifier, and frozen trains only the new
            classifier.
        dtype: precision of weights and internal computation; inputs and outputs are always float32. None means float32.
        adaptation: further arguments of `adapt`, for adapters, gradient checkpointing and compilation.
    """
    need_transformers("transformers_classifier")
    source, local = folder_or_name(name_or_path)
    read = _reads(pretrained)
    network = _network(source, local, num_classes, None if read else architecture)
    if network.config.is_encoder_decoder:
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2 for {network.config.model_type}, which answers with a token"
            )
        model: nn.Module = TextToTextClassifier(
            network, _answers(source, local, num_classes) if read else [*range(num_classes)]
        )
        new = []
    else:
        model = TextClassifier(network)
        base = network.base_model_prefix
        new = [
            f"network.{name}" for name, child in network.named_children() if name != base and list(child.parameters())
        ]
    return adapt(model, tuning, None if tuning == "full" else new, dtype=dtype, **adaptation)


def transformers_text_encoder(
    name_or_path: str, architecture: dict[str, Any] | None = None, pretrained: bool = True
) -> nn.Module:
    """Build a frozen text encoder from transformers, which computes features, `[B, D]`, from its tokenizer's output.

    The features are the mean of the last hidden states of all tokens that are not padding. On the meta device, where
    parameters have no values, no weights are read.

    Args:
        name_or_path: local folder written by `save_pretrained`, or name of a model on the Hugging Face Hub.
        architecture: config from which the network is built if no weights are read (with `pretrained: false`, or on the
            meta device): a dictionary with `model_type`, such as bert, and the network's settings. None reads the
            config of `name_or_path`.
        pretrained: load the weights; if false, the weights are initialised randomly.
    """
    need_transformers("transformers_text_encoder")
    source, local = folder_or_name(name_or_path)
    network = _network(source, local, 2, None if _reads(pretrained) else architecture)
    if network.config.is_encoder_decoder:
        raise ValueError(
            f"name_or_path: {network.config.model_type} has a decoder, but features require an encoder-only network"
        )
    return adapt(TextEncoder(getattr(network, network.base_model_prefix)), "frozen")


def _reads(pretrained: bool) -> bool:
    return pretrained and torch.get_default_device().type != "meta"


def _network(source: str, local: bool, num_classes: int, architecture: dict[str, Any] | None) -> Any:
    """Load a text classification network, or build one from `architecture` if it is not None."""
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    config = _config(source, local, architecture)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForSequenceClassification
    if not config.is_encoder_decoder:
        config.num_labels = num_classes
    network_class = kind._model_mapping.get(type(config), None)
    if network_class is None:
        raise ValueError(f"name_or_path: {config.model_type} is not a text classification network of transformers")
    if architecture is not None:
        return new_network(network_class, config, source).train()
    inside = "" if config.is_encoder_decoder else f"{network_class.base_model_prefix}."
    options = {"config": config, "local_files_only": local, "dtype": torch.float32}
    with quiet_transformers():  # transformers reports the newly initialised classifier
        return from_pretrained(network_class, source, "model.safetensors", needed=inside, **options).train()


def _config(source: str, local: bool, architecture: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig

    if architecture is not None:
        try:
            return AutoConfig.for_model(**architecture)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"architecture: {architecture} is not a config of transformers: {reason}") from error
    check_pretrained(source)
    try:
        return AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"name_or_path: no transformers network at {source}; expected a folder with config.json, as "
            f"save_pretrained writes it, or a name on the Hugging Face Hub"
        ) from error
    except Exception as error:  # transformers raises many types of errors for invalid values
        raise ValueError(f"config.json of {source} is not a config of transformers: {sentence(error)}") from error


def _answers(source: str, local: bool, num_classes: int) -> list[int]:
    """Tokenise each class index as text, and return the vocabulary index of its first token."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # transformers raises many types of errors for damaged files
        raise ValueError(f"name_or_path: the tokenizer of {source} cannot be read: {sentence(error)}") from error
    tokens = [tokenizer(str(number)).input_ids[0] for number in range(num_classes)]
    if len(set(tokens)) < num_classes:
        raise ValueError(
            f"num_classes: indices below {num_classes} must start with different tokens, got "
            f"{join_names(map(str, tokens))}"
        )
    return tokens
