import torch

from callbacks.tested_images import hash_of_weights


def test_the_hash_sees_every_weight() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    seen = {hash_of_weights(module)}
    for tensor in module.state_dict().values():
        tensor.view(-1)[0] += 1
        seen.add(hash_of_weights(module))
    assert len(seen) == 1 + len(module.state_dict())
