"""NCSN++ for complex spectrograms."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.networks.ncsnpp import NCSNpp


class SpeechNCSNpp(nn.Module):
    """Estimate a score from state and noisy spectrogram, each by its real and imaginary part, and a time.

    It is NCSN++ with both pyramids, whose output is divided by the time and then mixed by a 1 x 1 convolution. With the
    arguments' defaults it has 65,590,694 trainable parameters, as the authors' code.

    Args:
        frequencies: height of the spectrograms, which attention sizes are told by; their width is any multiple of
            2^(sizes - 1).
        width: channels at full size, a multiple of 4.
        multipliers: of the channels, for each size from the largest downwards.
        num_blocks: residual blocks for each size.
        attention_sizes: heights that have self-attention, beside the middle of the network.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        frequencies: int = 256,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 2, 2, 2),
        num_blocks: int = 2,
        attention_sizes: Sequence[int] = (16,),
    ) -> None:
        super().__init__()
        self.body = NCSNpp(
            image_size=frequencies,
            channels=4,
            width=width,
            multipliers=multipliers,
            num_blocks=num_blocks,
            attention_sizes=attention_sizes,
            dropout=0.0,
            input_pyramid="skip",
            output_pyramid="skip",
            centre_input=False,
        )
        self.mix = nn.Conv2d(4, 2, 1)

    def forward(self, channels: Tensor, t: Tensor) -> Tensor:
        """Map `[B, 4, F, T]` and times `[B]` to `[B, 2, F, T]`."""
        return self.mix(self.body(channels, t).to(self.mix.weight.dtype))
