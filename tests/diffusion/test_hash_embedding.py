import torch

from lightning_modules.diffusion.hash_embedding import HashedWords


def test_words_have_their_own_vectors_and_the_empty_text_none() -> None:
    encoder = HashedWords(features=6, length=3)
    found = encoder.encode_prompts(["a red car", "Car", "", "a red car too long"]).embedding
    assert found.shape == (4, 3, 6)
    assert torch.equal(found[0, 2], found[1, 0])
    assert torch.equal(found[0], found[3])
    assert not found[2].any()
    assert not torch.equal(found[0, 0], found[0, 1])
    assert torch.equal(encoder.empty_prompts(2).embedding, found[2:3].expand(2, -1, -1))
    assert torch.equal(HashedWords(features=6, length=3).vector, encoder.vector)
