"""Flow-matching transformers with packed latents, where 2 x 2 latent pixels are one position."""

from torch import Tensor

from lightning_modules.backbones.diffusion.flow_transformer import FlowTransformer


class PackedLatents(FlowTransformer):
    """A flow-matching transformer whose positions are 2 x 2 latent pixels; base class of FLUX.1 and Qwen-Image."""

    packing = 4

    @property
    def image_size(self) -> int:
        """Height and width of the images that the pipeline generates by default."""
        return self.pipeline.default_sample_size * self.pipeline.vae_scale_factor

    @property
    def patch_size(self) -> int:
        """Height and width of a packed position, in latent pixels."""
        return 2

    def packed(self, latent: Tensor) -> Tensor:
        """Arrange z `[B, c, h, w]` as positions, `[B, h w / 4, 4 c]`."""
        return self.pipeline._pack_latents(latent.contiguous(), *latent.shape)

    def unpacked(self, positions: Tensor, height: int, width: int) -> Tensor:
        """Rearrange positions to z of a given height and width, as the pipeline does."""
        scale = self.pipeline.vae_scale_factor
        return self.pipeline._unpack_latents(positions, height * scale, width * scale, scale)
