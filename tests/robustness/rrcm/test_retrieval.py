import torch

from lightning_modules.robustness.rrcm.retrieval import Retrieval, retrieval


def test_images_are_found_again_by_the_cosine() -> None:
    clean = torch.eye(4)
    noisy = torch.tensor([[5.0, 1, 0, 0], [0, 0.2, 0.1, 0], [0, 0, 0.1, 0.2], [1, 0, 0, 0.9]])
    assert retrieval(noisy, clean) == 0.5
    metric = Retrieval()
    for rows in (slice(0, 1), slice(1, 4)):
        metric.update(noisy[rows], clean[rows])
    assert metric.compute() == 0.5
