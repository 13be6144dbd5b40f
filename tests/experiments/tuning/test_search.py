import math

import pytest

from experiments.tuning.search import Search, check_keys, parse_metric, parse_search


@pytest.mark.parametrize(
    ("text", "kind", "ends", "count"),
    [
        ("model.strength=log:0.1:10", "log", ("0.1", "10"), math.inf),
        ("model.strength=float:-1:1e0", "float", ("-1", "1e0"), math.inf),
        ("a+b.c=int:1:8", "int", ("1", "8"), 8),
        ("model.rule=choice:a.B,0.5,true,[1, 2]", "choice", ("a.B", "0.5", "true", "[1, 2]"), 4),
    ],
)
def test_a_search_is_a_key_with_a_range_or_choices(text: str, kind: str, ends: tuple[str, ...], count: float) -> None:
    found = parse_search(text)
    assert (found.kind, found.ends, found.count) == (kind, ends, count)
    assert [found.value(found.text(found.value(each))) for each in ends] == [found.value(each) for each in ends]


def test_numbers_have_six_digits_and_stay_in_the_range() -> None:
    assert Search("a", "log", ("0.1", "1")).text(0.12345678) == "0.123457"
    assert Search("a", "float", ("0.1234561", "1")).text(0.1234562) == "0.1234561"
    assert Search("a+b", "int", ("1", "3")).arguments("2") == ["--a", "2", "--b", "2"]
    for search, text in ((Search("a", "int", ("1", "3")), "4"), (Search("a", "choice", ("1", "3")), "2")):
        with pytest.raises(ValueError, match=f"a {text} is not in"):
            search.value(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.strength", "must be KEY=log:LOW:HIGH"),
        ("a=float:0:inf", "with finite numbers"),
        ("a=int:0.5:2", "with whole numbers"),
        ("a=log:2:1", "the first number must be smaller"),
        ("a=log:0:1", "must begin above 0; use float:0:1"),
        ("a=choice:b", "at least two different values"),
        ("seed_everything=int:1:3", "--search cannot set seed_everything, which"),
    ],
)
def test_a_wrong_search_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="--search") as error:
        parse_search(text)
    assert said in str(error.value)


def test_a_key_is_searched_once_however_it_is_written() -> None:
    with pytest.raises(ValueError, match=r"--search sets model.lr twice"):
        check_keys([parse_search("model.lr=log:1:2"), parse_search("a+model.init_args.lr=log:1:2")])


def test_the_direction_follows_from_the_name_or_is_given() -> None:
    assert [parse_metric(text).mode for text in ("val/accuracy", "val/loss", "val/score:max", "val/accuracy:min")] == [
        "max",
        "min",
        "max",
        "min",
    ]
    for text, said in (
        ("val/score", "has no known direction; write val/score:max if larger values are better"),
        ("val/loss:up", "must end in :max or :min"),
        ("test/accuracy", "choose a validation metric such as val/accuracy"),
        ("best_epoch/test/loss:min", "choose a validation metric such as val/loss"),
    ):
        with pytest.raises(ValueError, match="--metric") as error:
            parse_metric(text)
        assert said in str(error.value)
