"""The quality benchmark on splits whose right answers are known beforehand."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import quality
from feedloop.settings import from_environment
from tests.support.checkerboard import CATEGORIES, START, left_out

PEOPLE, ITEMS = 60, 40
K = 5
"""More than anyone has left out, fewer than the items of one parity."""

Pairs = list[tuple[str, str]]


def liked(*, known: bool) -> Pairs:
    return [
        (f"u{person:03}", f"i{number:03}")
        for person in range(PEOPLE)
        for number in range(person % 2, ITEMS, 2)
        if left_out(person, number) != known
    ]


def table(pairs: Pairs, *, timed: bool = False) -> pa.Table:
    columns: dict[str, list[object]] = {
        "user_id": [user for user, _ in pairs],
        "item_id": [item for _, item in pairs],
    }
    if timed:
        columns["occurred_at"] = [
            START + timedelta(minutes=(at * 577) % 20_000) for at in range(len(pairs))
        ]
        columns["event_type"] = ["click"] * len(pairs)
    return pa.table(columns)


def run(folder: Path, *options: str) -> dict[str, float]:
    out = folder / "R.json"
    split = ["--train", str(folder / "A.parquet"), "--test", str(folder / "B.parquet")]
    result = CliRunner().invoke(
        quality.command, [*split, *options, "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    figures: dict[str, float] = json.loads(out.read_text())["figures"]
    return figures


@pytest.mark.parametrize("timed", [True, False])
def test_what_people_left_out_leads_their_list(tmp_path: Path, timed: bool) -> None:
    pq.write_table(table(liked(known=True), timed=timed), tmp_path / "A.parquet")
    pq.write_table(table(liked(known=False)), tmp_path / "B.parquet")
    figures = run(tmp_path, "--k", "2", str(K))
    for method in ("popularity", "item_item", "als", "blend", "pipeline"):
        for metric in ("recall", "ndcg", "hr"):
            for k in (2, K):
                assert 0 <= figures[f"{method}.{metric}@{k}"] <= 1
    for method in ("item_item", "blend", "pipeline"):
        assert figures[f"{method}.recall@{K}"] == 1, method
        assert figures[f"{method}.ndcg@{K}"] == 1, method
    assert figures[f"popularity.recall@{K}"] < 0.9
    assert figures[f"lead.recall@{K}.mean"] == 0


@pytest.mark.parametrize(("later", "said"), [(False, True), (True, False)])
def test_a_test_drawn_from_among_the_known_times_is_named(
    tmp_path: Path, later: bool, said: bool
) -> None:
    known, answers = (table(liked(known=one), timed=True) for one in (True, False))
    if later:
        place = answers.column_names.index("occurred_at")
        after = pc.add(answers["occurred_at"], timedelta(days=60))
        answers = answers.set_column(place, "occurred_at", after)
    pq.write_table(known, tmp_path / "A.parquet")
    pq.write_table(answers, tmp_path / "B.parquet")
    split = ["--train", str(tmp_path / "A.parquet")]
    split += ["--test", str(tmp_path / "B.parquet"), "--out", str(tmp_path / "R.json")]
    result = CliRunner().invoke(quality.command, split, catch_exceptions=False)
    assert ("leave occurred_at out" in " ".join(result.output.split())) == said


def test_sampled_ranks_the_negatives_and_the_answers_only(tmp_path: Path) -> None:
    pq.write_table(table(liked(known=True)), tmp_path / "A.parquet")
    answers = [("u000", "i000"), ("u001", "i011")]
    assert set(answers) <= set(liked(known=False))
    pq.write_table(table(answers), tmp_path / "B.parquet")
    negatives = [
        (user, f"i{number:03}")
        for (user, _), odd in zip(answers, (1, 0), strict=True)
        for number in range(odd, 20, 2)
    ]
    pq.write_table(table(negatives), tmp_path / "N.parquet")
    figures = run(
        tmp_path,
        *("--protocol", "sampled", "--negatives", str(tmp_path / "N.parquet")),
        *("--k", "1"),
    )
    for method in ("item_item", "als", "blend", "pipeline"):
        assert figures[f"{method}.hr@1"] == 1, method


def test_an_item_that_nobody_touched_is_found_by_its_tags(tmp_path: Path) -> None:
    pq.write_table(table(liked(known=True), timed=True), tmp_path / "A.parquet")
    pq.write_table(table([("u000", "new")]), tmp_path / "B.parquet")
    names = [f"i{number:03}" for number in range(ITEMS)]
    items = pa.table(
        {
            "item_id": [*names, "new"],
            "category": [CATEGORIES[at % 2] for at in range(ITEMS)] + ["even"],
            "tags": [[CATEGORIES[at % 2]] for at in range(ITEMS)] + [["even"]],
        }
    )
    pq.write_table(items, tmp_path / "I.parquet")
    wanted = ("--items", str(tmp_path / "I.parquet"), "--k", str(K))
    assert run(tmp_path, *wanted)[f"blend.hr@{K}"] == 1


def test_lists_are_made_before_the_answers_are_read() -> None:
    settings = from_environment({})
    train = table(liked(known=True), timed=True)
    users = train["user_id"].combine_chunks().unique()
    events = []

    def answers() -> pa.Table:
        events.append("read")
        return table(liked(known=False))

    def noted(*args: object) -> object:
        for name, made in real(*args):
            events.append(name)
            yield name, made

    real = quality.lists
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "lists", noted)
        quality.measured(
            quality.Task(train, None, users, None), answers, (K,), settings, 1
        )
    assert events == ["popularity", "item_item", "als", "blend", "pipeline", "read"]


def test_the_answers_change_no_list(tmp_path: Path) -> None:
    """Another answer of the same person: the other figures follow from the
    same lists."""
    pq.write_table(table(liked(known=True)), tmp_path / "A.parquet")
    pq.write_table(table([("u000", "i000")]), tmp_path / "B.parquet")
    right = run(tmp_path, "--k", str(K))
    pq.write_table(table([("u000", "i001")]), tmp_path / "B.parquet")
    wrong = run(tmp_path, "--k", str(K))
    assert right[f"pipeline.hr@{K}"] == 1
    assert wrong[f"pipeline.hr@{K}"] == 0


def test_csv_and_pairs_that_were_known(tmp_path: Path) -> None:
    train = liked(known=True)
    pa.csv.write_csv(table(train), tmp_path / "train.csv")
    pa.csv.write_csv(table([("u000", "i000"), train[0]]), tmp_path / "test.csv")
    out = tmp_path / "R.json"
    result = CliRunner().invoke(
        quality.command,
        [
            *("--train", str(tmp_path / "train.csv")),
            *("--test", str(tmp_path / "test.csv"), "--k", str(K), "--out", str(out)),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["figures"][f"pipeline.recall@{K}"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train", "A.parquet"], "go together"),
        (["--protocol", "sampled"], "go together"),
        (["--items", "A.parquet"], "need --train"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(liked(known=True)), "A.parquet")
    result = CliRunner().invoke(quality.command, options)
    assert result.exit_code == 2
    assert said in result.output


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(table(liked(known=True)).drop_columns("item_id"), tmp_path / "A")
    pq.write_table(table(liked(known=False)), tmp_path / "B")
    result = CliRunner().invoke(
        quality.command, ["--train", str(tmp_path / "A"), "--test", str(tmp_path / "B")]
    )
    assert result.exit_code == 1
    assert "item_id is missing" in result.output
