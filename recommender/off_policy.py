"""What another policy would have earned, from what the exploration slot logged.

Only the slot's draws have a probability below 1, so only they can tell. With r
the reward of a draw, p the probability with which it was drawn, t the one with
which the policy in question would have drawn the same item there, and w = t / p:

- ``ips``    mean of w r (Horvitz and Thompson, 1952)
- ``snips``  sum of w r over sum of w (Swaminathan and Joachims, "The
             Self-Normalized Estimator for Counterfactual Learning", 2015)
- ``dr``     mean of v + w (r - q), with q what a model expects of the drawn item
             and v of the policy in question (Dudík et al., "Doubly Robust Policy
             Evaluation and Learning", 2011)

Draws of one person are not independent: intervals are by a bootstrap of people.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from feedloop.errors import ContractError
from recommender.arrays import Doubles, Ints, codes, ids, numbers
from recommender.metrics import Estimate, interval

LEAST_EFFECTIVE = 100.0
LEAST_COVERED = 0.9


class OffPolicy(msgspec.Struct, frozen=True, kw_only=True, tag="estimate"):
    """Rewards a draw. ``effective``: the effective sample size (Kish, 1965),
    the sum of w squared over the sum of w²; ``draws``: as logged. ``dr`` is
    None without a model's expectations."""

    ips: Estimate
    snips: Estimate
    dr: Estimate | None
    draws: int
    effective: float


class NoSupport(msgspec.Struct, frozen=True, kw_only=True, tag="no_support"):
    """The log can't tell, and why. ``covered``: the mean of w, which is 1
    where all that the policy would do was possible."""

    reason: str
    draws: int
    effective: float
    covered: float


@dataclass(frozen=True)
class _Draws:
    user: Ints
    weight: Doubles
    reward: Doubles
    predicted: Doubles | None
    expected: Doubles | None


def estimate(draws: pa.Table, seed: int) -> OffPolicy | NoSupport:
    """Estimates for the policy of ``target``, or why there are none.

    ``draws``, one row a draw of the slot: user_id, propensity (in (0, 1]),
    target (in [0, 1]), reward, and with a model ``predicted`` (q) and
    ``expected`` (v). Rows whose propensity is 1 were not drawn and don't count.
    Raises ``ContractError`` for a probability outside its range.
    """
    log = _read(draws)
    total, squares = log.weight.sum(), (log.weight**2).sum()
    effective = float(total**2 / squares) if squares else 0.0
    covered = float(log.weight.mean()) if len(log.weight) else 0.0
    if effective < LEAST_EFFECTIVE:
        return NoSupport(
            reason=f"The {len(log.user)} draws are worth {effective:.0f}, and "
            f"{LEAST_EFFECTIVE:.0f} are the least; collect more impressions of the "
            "slot, or ask about a policy nearer to the one that drew.",
            draws=len(log.user),
            effective=effective,
            covered=covered,
        )
    coverage = _by_user(log, log.weight[:, None], seed)[0]
    if coverage.high < LEAST_COVERED:
        return NoSupport(
            reason=f"Only {coverage.mean:.0%} of what the policy would show could "
            "have been drawn; the rest was never in the slot's pool.",
            draws=len(log.user),
            effective=effective,
            covered=covered,
        )
    gained = log.weight * log.reward
    values = np.column_stack([gained, gained])
    over = np.column_stack([np.ones_like(gained), log.weight])
    if log.predicted is not None and log.expected is not None:
        robust = log.expected + log.weight * (log.reward - log.predicted)
        values = np.column_stack([values, robust])
        over = np.column_stack([over, np.ones_like(gained)])
    found = _by_user(log, values, seed, over)
    return OffPolicy(
        ips=found[0],
        snips=found[1],
        dr=found[2] if len(found) > 2 else None,
        draws=len(log.user),
        effective=effective,
    )


SLOT_VALUE = pa.schema(
    [
        pa.field("policy", pa.string()),
        pa.field("ips", pa.float64()),
        pa.field("ips_low", pa.float64()),
        pa.field("ips_high", pa.float64()),
        pa.field("snips", pa.float64()),
        pa.field("snips_low", pa.float64()),
        pa.field("snips_high", pa.float64()),
        pa.field("dr", pa.float64()),
        pa.field("dr_low", pa.float64()),
        pa.field("dr_high", pa.float64()),
        pa.field("draws", pa.int64()),
        pa.field("effective", pa.float64()),
        pa.field("refusal", pa.string()),
    ]
)


def slot_value(draws: pa.Table, seed: int) -> pa.Table:
    """SLOT_VALUE: what the slot earns a draw, as it draws and drawing evenly.

    ``draws``: user_id, propensity, pool_size (among how many items it was
    drawn), reward; and of the items' click-through (null: not kept, and nothing is
    expected) that of the drawn one, ``predicted``, and the pool's means,
    ``expected_as_drawn`` and ``expected_evenly``. Of other policies the log
    doesn't know with what chance they would have drawn the same item.
    """
    propensity = numbers(draws, "propensity", np.nan)
    targets = {
        "as drawn": propensity,
        "evenly": 1 / numbers(draws, "pool_size", np.nan),
    }
    logged = draws.select(["user_id", "propensity", "reward"])
    scale = _click_through_to_reward(draws)
    predicted = pa.array(scale * numbers(draws, "predicted", 0.0))
    rows = []
    for policy, target in targets.items():
        pool_mean = numbers(draws, f"expected_{policy.replace(' ', '_')}", 0.0)
        asked = (
            logged.append_column("target", pa.array(target))
            .append_column("predicted", predicted)
            .append_column("expected", pa.array(scale * pool_mean))
        )
        rows.append(_row(policy, estimate(asked, seed)))
    return pa.Table.from_pylist(rows, schema=SLOT_VALUE)


def _click_through_to_reward(draws: pa.Table) -> Doubles:
    """For each draw, how many times its click-through the reward is on average.

    A click-through is of all positions, a reward of the slot. For one half of the
    people the ratio is the other half's: a model that had seen the rewards it
    corrects would take their luck for knowledge (Chernozhukov et al.,
    "Double/debiased machine learning", 2018).
    """
    user, people = codes(ids(draws, "user_id"))
    half = (np.arange(len(people)) % 2)[user]
    reward = np.bincount(half, numbers(draws, "reward", 0.0), 2)
    predicted = np.bincount(half, numbers(draws, "predicted", 0.0), 2)
    ratio = np.divide(reward, predicted, out=np.zeros(2), where=predicted > 0)
    scale: Doubles = ratio[1 - half]
    return scale


def _row(policy: str, found: OffPolicy | NoSupport) -> dict[str, object]:
    row: dict[str, object] = {
        "policy": policy,
        "draws": found.draws,
        "effective": found.effective,
    }
    if isinstance(found, NoSupport):
        return row | {"refusal": found.reason}
    estimates = {"ips": found.ips, "snips": found.snips, "dr": found.dr}
    for name, one in estimates.items():
        if one is None:
            continue
        row |= {name: one.mean, f"{name}_low": one.low, f"{name}_high": one.high}
    return row


def _read(draws: pa.Table) -> _Draws:
    user, _ = codes(ids(draws, "user_id"))
    propensity = numbers(draws, "propensity", np.nan)
    target = numbers(draws, "target", np.nan)
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ContractError("A propensity is null or outside (0, 1].")
    if not ((target >= 0) & (target <= 1)).all():
        raise ContractError("A target probability is null or outside [0, 1].")
    drawn = propensity < 1

    def optional(name: str) -> Doubles | None:
        if name not in draws.column_names:
            return None
        return numbers(draws, name, 0.0)[drawn]

    return _Draws(
        user=user[drawn],
        weight=(target / propensity)[drawn],
        reward=numbers(draws, "reward", 0.0)[drawn],
        predicted=optional("predicted"),
        expected=optional("expected"),
    )


def _by_user(
    log: _Draws, values: Doubles, seed: int, over: Doubles | None = None
) -> list[Estimate]:
    """For each column the ratio of the sums of ``values`` and of ``over``
    (ones where it is left out), with its interval."""
    over = np.ones_like(values) if over is None else over
    _, user = np.unique(log.user, return_inverse=True)
    people = int(user.max()) + 1

    def summed(columns: Doubles) -> Doubles:
        found = [np.bincount(user, column, people) for column in columns.T]
        return np.column_stack(found)

    above, below = summed(values), summed(over)
    low, high = interval(above, seed, below)
    means = above.sum(axis=0) / below.sum(axis=0)
    return [
        Estimate(
            mean=float(means[at]),
            low=float(low[at]),
            high=float(high[at]),
            users=people,
        )
        for at in range(len(means))
    ]
