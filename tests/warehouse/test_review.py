"""What a change under review builds, against the published production state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from feedloop.cli.dbt_run import keep_state
from tests.conftest import Project
from tests.support.checkerboard import END
from tests.support.project_copy import copy_project


def test_a_modified_model_builds_beside_production(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path / "home")
    as_of = END.isoformat(sep=" ")
    project.build_features(as_of)
    keep_state(project.settings)
    state = project.settings.home_dir / "state"

    changed = copy_project(tmp_path / "changed")
    model = changed / "models/features/feat_user_activity.sql"
    model.write_text(model.read_text().replace("within(7)", "within(6)"))

    review = Project(
        msgspec.structs.replace(project.settings, project_dir=str(changed)),
        project.clock,
        project.log,
    )
    review.dbt(
        "build",
        "--target",
        "review",
        "--select",
        "state:modified+",
        "--exclude",
        "path:python_models path:models/embeddings path:models/training "
        "path:models/recommendations path:models/monitoring resource_type:unit_test",
        "--defer",
        "--state",
        str(state),
        as_of=as_of,
    )

    def tables(schema: str) -> set[str]:
        rows = project.query(
            "select table_name from information_schema.tables "
            f"where table_schema = '{schema}'"
        )
        return {name for (name,) in rows}

    built = tables("t1_review")
    assert {"feat_user_activity", "int_user_features", "feat_users"} <= built
    assert not {"stg_events", "tile_user_days", "feat_item_popularity"} & built
    total = "select sum(user_events_7d) from {}.feat_users"
    (before,) = project.query(total.format("t1"))[0]
    (after,) = project.query(total.format("t1_review"))[0]
    assert 0 < after < before
