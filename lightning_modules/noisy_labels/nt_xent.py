"""The contrastive loss of SimCLR: each view of an image must find the other one among all other views of the batch.

    L = (1/2B) sum_a -log( exp(<h_a, h_b> / tau) / sum_{c != a} exp(<h_a, h_c> / tau) ),    b the other view of a,

over the 2B views of a batch, with |h| = 1.

Source: Chen, Kornblith, Norouzi and Hinton, A Simple Framework for Contrastive Learning of Visual Representations, ICML
2020, arXiv 2002.05709, equation 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.noisy_labels.cosine_similarities import cosine_similarities


def nt_xent(
    first: Tensor, second: Tensor, all_first: Tensor, all_second: Tensor, offset: int, temperature: float
) -> Tensor:
    """L of some images, among all.

    Args:
        first: `[b, D]`: one view of each; need not be normalised.
        second: `[b, D]`: the other.
        all_first: `[B, D]`: of all images, with those in `first` from row `offset` on.
        all_second: `[B, D]`: likewise.
        offset: first row of these images among all.
        temperature: tau.

    Returns:
        The mean over the 2b views.
    """
    similarity = cosine_similarities(torch.cat([first, second]), torch.cat([all_first, all_second])) / temperature
    image = torch.arange(len(first), device=first.device) + offset
    itself = torch.cat([image, image + len(all_first)])
    partner = torch.cat([image + len(all_first), image])
    columns = torch.arange(similarity.shape[1], device=first.device)
    return F.cross_entropy(similarity.masked_fill(itself[:, None] == columns, -torch.inf), partner)
