"""The inner split: what is known, cut once more, so that something can be chosen
or learnt without the answer that it will be judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from recommender.arrays import Bools, Ints, places_in
from recommender.history import EPOCH, History

MORE_RECENT = 1.2


@dataclass(frozen=True)
class Split:
    """``before``: what the stages may learn from, up to ``as_of``. ``after``:
    the labels. Codes are those of the history that was split."""

    before: History
    after: History
    as_of: datetime


def split(
    history: History,
    label_share: float,
    most_labels: int,
    served: Bools | None = None,
) -> Split:
    """The newest ``label_share`` of the pairs of a user and an item as labels
    (after one instant: ``most_labels`` at most), all that is known of a pair on
    the same side.

    After one instant for everyone, as lists are made, or each person's last.
    The latter where there are no times, and where the ``served`` (by user
    code; None: everyone) are no more recent than people at large: then what is
    asked for is not what comes after the log's end, but how each one's own
    history goes on.
    """
    if len(history) == 0:
        return Split(history, history, history.as_of)
    newest, offsets = history.pairs()
    pair_of = _pair_of_each(history, newest)
    if history.timed and _follow_the_log(history, label_share, served):
        first = np.full(len(newest), np.iinfo(np.int64).max)
        np.minimum.at(first, pair_of, history.at)
        labels = min(math.ceil(len(first) * label_share), most_labels)
        at = np.sort(first)[-labels]
        before, after = history.at < at, (first >= at)[pair_of]
        as_of = EPOCH + timedelta(microseconds=int(at))
    else:
        count = np.diff(offsets)
        held = np.where(count > 1, np.ceil(label_share * count), 0)
        after = (places_in(offsets) < np.repeat(held, count))[pair_of]
        before = ~after
        as_of = history.as_of
    return Split(history.only(before), history.only(after), as_of)


def _pair_of_each(history: History, newest: Ints) -> Ints:
    """For each interaction the place of its pair in ``newest``."""
    width = max(len(history.item_ids), 1)
    key = history.user * width + history.item
    order = np.argsort(key[newest])
    found: Ints = order[np.searchsorted(key[newest][order], key)]
    return found


def _follow_the_log(history: History, label_share: float, served: Bools | None) -> bool:
    """Whether the ``served`` were here lately more often than people at large."""
    if served is None:
        return True
    late = history.at[int(len(history) * (1 - label_share))]
    recent = np.zeros(len(history.user_ids), np.bool_)
    recent[history.user[history.at >= late]] = True
    return bool(recent[served].mean() > MORE_RECENT * recent.mean())
