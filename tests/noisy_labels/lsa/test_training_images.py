import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.batches import UNVERIFIED
from lightning_modules.noisy_labels.lsa.training_images import sweep
from tests.noisy_labels.lsa.small import NOISY, data, fit, one_network


def test_a_sweep_judges_each_image_once_in_its_own_order_and_leaves_everything_as_it_was() -> None:
    module = one_network(batch_norm=True, **NOISY)
    trainer = fit(module, 1)
    before, guess = copy.deepcopy(module.state_dict()), module.images.guesses[0].gather().clone()
    found = sweep(trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
    assert found is not None
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(module.images.guesses[0].gather(), guess)
    source = data().images.prepare(3, torch.device("cpu")).training()
    image = source.image.double() / 255
    unseen = guess.sum(dim=1) == 0
    assert unseen.sum() == 1  # the last of 201 samples is in no batch of the epoch
    guess[unseen] = F.one_hot(source.label[unseen], 6).double()
    with torch.no_grad():
        network = module.network.eval()
        log_p = network(image).log_softmax(dim=1)
        hidden = network.network[:4](network.normalize(image))
    np.testing.assert_allclose(found.loss, F.nll_loss(log_p, source.label, reduction="none"), rtol=1e-10)
    np.testing.assert_allclose(found.pseudo_loss, -(guess * log_p).sum(dim=1), rtol=1e-10)
    np.testing.assert_allclose(found.feature, F.normalize(hidden, dim=1), rtol=1e-10)
    assert found.wrong is not None
    np.testing.assert_array_equal(found.wrong, np.arange(201) >= 120)


@pytest.mark.parametrize("verified", ["in part", "never"])
def test_a_sweep_says_nothing_of_a_truth_that_is_not_known_of_all_images(verified: str) -> None:
    module, into = one_network(**NOISY), data()
    into.setup("fit")
    assert into.train_set is not None
    assert into.train_set.clean_label is not None
    into.train_set.clean_label[7] = UNVERIFIED
    if verified == "never":
        into.train_set.clean_label = None
    trainer = fit(module, 1, into)
    found = sweep(trainer, module.network, nn.Identity(), "3", module.images.guesses[0])
    assert found is not None
    assert found.wrong is None
    assert {"train/loss", "train/classification", "train/contrast", "train/noisy"} >= {
        name for name in trainer.callback_metrics if name.startswith("train/")
    }
