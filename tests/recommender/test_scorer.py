"""A scorer sent to another process is small, and makes the same lists."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa

from recommender.scorer import Scorer
from tests.recommender.worlds import random_world, surface


def test_a_scorer_sent_elsewhere_makes_the_same_lists(tmp_path: Path) -> None:
    surfaces = [surface("home", length=20, explore=1), surface("mail", length=5)]
    build, users = random_world(tmp_path, surfaces=surfaces)
    names = pa.array(["home", "mail"] * len(users))[: len(users)]
    asked = users.append_column("surface", names)
    scorer = Scorer(tmp_path, build.build_id, seed=7)
    here = pa.Table.from_batches(scorer([asked])).sort_by("rec_id")
    assert set(here["surface"].to_pylist()) == {"home", "mail"}
    assert here["user_id"].to_pylist() != sorted(here["user_id"].to_pylist())

    sent = pickle.dumps(scorer.on_one_thread())
    assert len(sent) < 1000, "an opened build is not sent"
    pieces = [asked.slice(at, 7) for at in range(0, len(asked), 7)]
    there = pa.Table.from_batches(pickle.loads(sent)(pieces)).sort_by("rec_id")
    assert there.equals(here)
