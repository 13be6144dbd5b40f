from tests.probabilistic.tester_learner.test_module import TesterLearner
from tests.rejections import Row, rejection_test

# fmt: off
REJECTED: list[Row] = [
    ("TesterLearner draws 1", lambda _: TesterLearner(dim=41, draws=40), ValueError,
     "dim must be at most 40 for moments of degree 4, got 41: use degree 2"),
    ("TesterLearner target", lambda _: TesterLearner(dim=3, draws=40, target="ball", tests="strips"), ValueError,
     "tests must be true or false with target ball, got strips"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
