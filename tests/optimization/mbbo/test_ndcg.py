from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from datamodules.loading import Loading
from datamodules.tables.ratings import SyntheticRatings
from datamodules.tables.tables import Tables
from lightning_modules.optimization.mbbo import NDCGRanking, NeuMF
from tests.trainers import quiet


def test_scores_are_of_products_and_of_a_perceptron() -> None:
    network = NeuMF(5, 7, 3, (2,))
    user, item = torch.tensor([4, 1]), torch.tensor([[0, 6, 2], [3, 3, 5]])
    score = network(user, item)
    vectors = [embedding.weight for embedding in (*network.users, *network.items)]
    hidden = torch.relu(network.perceptron[0](torch.cat([vectors[1][1], vectors[3][5]])))
    expected = network.last(torch.cat([vectors[0][1] * vectors[2][5], hidden]))
    torch.testing.assert_close(score[1, 2:], expected)
    assert score.shape == (2, 3)


def ranking(width: int = 4, dropout: float = 0.0, **arguments: Any) -> NDCGRanking:
    seed_everything(3, verbose=False)
    network = NeuMF(40, 30, width, (width,), dropout)
    settings: dict[str, Any] = {"positives": 4, "negatives": 10, **arguments}
    return NDCGRanking(network, partial(torch.optim.Adam, lr=2e-2), **settings)


def tables() -> Tables:
    return Tables(SyntheticRatings(40, 30, 12, 2, 2), batch_size=16, loading=Loading(seed=1))


def fitted(module: NDCGRanking, **options: Any) -> NDCGRanking:
    quiet(**{"max_epochs": 3, **options}).fit(module, datamodule=tables())
    return module


@pytest.mark.parametrize("top", [None, 3])
def test_rankings_get_better_than_by_chance(top: int | None) -> None:
    trainer, module = quiet(max_epochs=30), ranking(top=top)
    trainer.test(module, datamodule=tables(), verbose=False)
    before = float(trainer.callback_metrics["test/ndcg_5"])
    trainer.fit(module, datamodule=tables())
    assert trainer.callback_metrics["val/ndcg_5"] > 0
    trainer.test(module, datamodule=tables(), verbose=False)
    assert float(trainer.callback_metrics["test/ndcg_5"]) > 1.3 * before


def test_lower_levels_have_the_precision_of_training() -> None:
    for precision, dtype in (("64-true", torch.float64), ("32-true", torch.float32), ("bf16-mixed", torch.float32)):
        module = fitted(ranking(top=3), precision=precision, max_epochs=2)
        assert all(state.dtype == dtype for state in module.levels.checkpoint_state())


def test_batches_have_rated_items_first_and_others_then() -> None:
    module, rating = ranking(), tables().training_rows["ratings"]
    module._trainer = quiet()
    item = module.draw(rating, len(rating))
    assert item.shape == (40, 14)
    assert (rating.gather(1, item[:, :4]) > 0).all()
    assert (rating.gather(1, item[:, 4:]) == 0).all()
    assert all(len(set(row)) == 14 for row in item.tolist())


def test_without_a_move_the_last_iterate_takes_away_its_part_of_the_gradient() -> None:
    """If the weights have not moved, the tracked gradient is 1 - gamma_m times the plain one, also with dropout."""
    noted: list[list[torch.Tensor]] = []

    class Note(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            noted.append([parameter.grad.clone() for parameter in pl_module.network.parameters()])

    for part in (0.0, 0.25):
        module = ranking(dropout=0.5, gamma_gradient=part, gamma=0.0)
        module.compared_from = 0
        fitted(module, max_steps=1, callbacks=[Note()])
    for plain, less in zip(*noted, strict=True):
        torch.testing.assert_close(less, 0.75 * plain, rtol=1e-4, atol=1e-9)


def test_a_resumed_run_ends_where_the_whole_one_does(tmp_path: Path) -> None:
    whole = fitted(ranking(top=3), max_steps=8)

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    fitted(ranking(top=3), max_steps=5, callbacks=[Save()])
    resumed = ranking(top=3)
    quiet(max_steps=8).fit(resumed, datamodule=tables(), ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.levels.checkpoint_state(), whole.levels.checkpoint_state(), rtol=0, atol=0)
