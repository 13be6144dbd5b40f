"""The NCSN++ network for complex spectrograms."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.networks.ncsnpp import NCSNpp


class SpeechNCSNpp(nn.Module):
    """NCSN++ score network for complex spectrograms, conditioned on the noisy spectrogram and the time.

    The network is NCSN++ with an input and an output pyramid. The output is divided by the time; a 1 x 1 convolution
    then mixes the channels of the quotient. With the default arguments, the network has 65,590,694 trainable
    parameters, as in the authors' code.

    Args:
        frequencies: height F of the spectrograms. Their width T must be divisible by 2^(number of multipliers - 1).
        width: channels at full resolution, a multiple of 4.
        multipliers: channel multiplier of each resolution, starting with the highest resolution.
        num_blocks: number of residual blocks per resolution.
        attention_sizes: heights of the feature maps to which self-attention is applied. The middle of the network
            always has self-attention.
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
            pyramid="skip",
            centre_input=False,
        )
        self.mix = nn.Conv2d(4, 2, 1)

    def forward(self, channels: Tensor, t: Tensor) -> Tensor:
        """Map inputs `[B, 4, F, T]` and times `[B]` to outputs `[B, 2, F, T]`."""
        return self.mix(self.body(channels, t).to(self.mix.weight.dtype))
