"""Hyper-parameters chosen on the inner split."""

import pytest

from recommender.standalone import read_items
from recommender.tuning import CHOICES, Trial, Tuned, tune, variables_of, with_variables
from tests.recommender.test_standalone import RECIPE, history


def test_trials_are_seeded_and_begin_with_the_defaults() -> None:
    whole = history()
    items = read_items(None, whole)
    first, again = (tune(whole, items, RECIPE, 2, 60).trials for _ in range(2))
    assert [trial.variables for trial in first] == [trial.variables for trial in again]
    assert [trial.ndcg for trial in first] == [trial.ndcg for trial in again]
    defaults, other = first
    assert defaults.variables == variables_of(RECIPE)
    assert (defaults.lead, defaults.lead_low) == (0, 0)
    assert set(other.variables) == set(CHOICES)
    assert defaults.ndcg > 0.5
    assert defaults.retrieved == 1


def test_no_trial_begins_when_the_budget_is_spent() -> None:
    whole = history()
    assert len(tune(whole, read_items(None, whole), RECIPE, 5, 0).trials) == 1


def test_a_recipe_takes_the_variables_it_is_given() -> None:
    variables = {name: values[-1] for name, values in CHOICES.items()}
    assert variables != variables_of(RECIPE)
    assert variables_of(with_variables(RECIPE, variables)) == variables


@pytest.mark.parametrize(
    ("leads", "best"),
    [
        ([(0.9, 0.2, -0.1)], 0),
        ([(0.8, 0.1, 0.01), (0.9, 0.2, -0.1)], 1),
        ([(0.8, 0.1, 0.01), (0.85, 0.15, 0.02)], 2),
    ],
    ids=["luck", "one is sure", "the best of the sure"],
)
def test_defaults_stay_unless_another_is_surely_better(
    leads: list[tuple[float, float, float]], best: int
) -> None:
    trials = [Trial({}, 0.7, 0, 0, 1, 1)]
    trials += [Trial({}, ndcg, lead, low, 1, 1) for ndcg, lead, low in leads]
    assert Tuned(trials).best is trials[best]
