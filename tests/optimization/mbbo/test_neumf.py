import torch

from lightning_modules.optimization.mbbo import NeuMF


def test_scores_are_of_products_and_of_a_perceptron() -> None:
    network = NeuMF(5, 7, 3, (2,))
    user, item = torch.tensor([4, 1]), torch.tensor([[0, 6, 2], [3, 3, 5]])
    score = network(user, item)
    vectors = [embedding.weight for embedding in (*network.users, *network.items)]
    hidden = torch.relu(network.perceptron[0](torch.cat([vectors[1][1], vectors[3][5]])))
    expected = network.last(torch.cat([vectors[0][1] * vectors[2][5], hidden]))
    torch.testing.assert_close(score[1, 2:], expected)
    assert score.shape == (2, 3)
