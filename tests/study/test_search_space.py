"""What is searched of a recipe, and where from."""

import pytest

from crossdistill.errors import UserError
from crossdistill.options import MethodOptions
from crossdistill.ranges import Choice, Range
from crossdistill.study.search_space import search_space, with_values
from study.helpers import options_of


def test_ranges_of_the_method_and_of_the_optimiser_around_the_recipe() -> None:
    space = search_space(options_of(learning_rate=3e-3, weight_decay=0.1))
    assert list(space.ranges) == ["temperature", "label_weight", "learning_rate", "weight_decay"]
    assert space.ranges["learning_rate"] == Range(3e-3 / 10, 3e-3 * 10, log=True)
    assert space.start == {"temperature": 4.0, "label_weight": 0.1, "learning_rate": 3e-3, "weight_decay": 0.1}


def test_training_alone_has_the_optimiser_to_search() -> None:
    space = search_space(options_of(method=MethodOptions("scratch"), weight_decay=0.0))
    assert list(space.ranges) == ["learning_rate", "weight_decay"]
    assert isinstance(space.ranges["weight_decay"], Choice)
    assert space.start["weight_decay"] == 0.0


def test_what_the_method_decides_for_itself_or_lies_outside_has_no_start() -> None:
    assert "gram_weight" not in search_space(options_of(method=MethodOptions("cakd"))).start
    outside = options_of(method=MethodOptions("kd", {"temperature": 20}))
    assert search_space(outside, ["temperature"]).start == {}
    assert "temperature" not in search_space(outside).ranges
    assert search_space(options_of(method=MethodOptions("kd", {"temperature": 2}))).start["temperature"] == 2


def test_chosen_names_alone() -> None:
    assert set(search_space(options_of(), ["temperature", "learning_rate"]).ranges) == {"temperature", "learning_rate"}
    with pytest.raises(UserError, match="--search: kd has no range for 'temprature'; did you mean 'temperature'"):
        search_space(options_of(), ["temprature"])
    with pytest.raises(UserError, match="--learning_rate 0"):
        search_space(options_of(learning_rate=0.0))


def test_values_go_where_they_belong_and_the_recipe_stays() -> None:
    recipe = options_of(method=MethodOptions("kd", {"teacher_weight": 0.5}))
    changed = with_values(recipe, {"temperature": 2.0, "learning_rate": 0.5})
    assert changed.method == MethodOptions("kd", {"teacher_weight": 0.5, "temperature": 2.0})
    assert changed.learning_rate == 0.5
    assert recipe.method.kwargs == {"teacher_weight": 0.5} and recipe.learning_rate == 1e-3
