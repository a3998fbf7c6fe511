"""Settings, seeds and the clock."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedloop.clock import FileClock, clock_from
from feedloop.contracts import seeds
from feedloop.errors import SeedError, SettingsError
from feedloop.settings import Settings, describe, from_environment, to_environment


def test_a_setting_comes_from_its_variable() -> None:
    settings = from_environment(
        {"FEEDLOOP_NAMESPACE": "brand_a", "FEEDLOOP_COLLECTOR_PORT": "9000", "X": "1"}
    )
    assert settings.namespace == "brand_a"
    assert settings.collector_port == 9000
    assert from_environment(to_environment(settings)) == settings
    assert settings.topic("events") == "brand_a.events"
    assert settings.home_dir.name == "brand_a"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEEDLOOP_NAMESPACE", "Ünsafe; drop"),
        ("FEEDLOOP_COLLECTOR_PORT", "many"),
        ("FEEDLOOP_COLLECTOR_PORT", "70000"),
        ("FEEDLOOP_LOG", "paper"),
        ("FEEDLOOP_NAMESPCAE", "typo"),
    ],
)
def test_an_unusable_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment({name: value})


def test_every_setting_says_what_it_is_for() -> None:
    described = describe()
    assert [entry["name"] for entry in described] == list(Settings.__struct_fields__)
    assert all(entry["description"] for entry in described)


def test_secrets_are_not_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "feedloop", "settings", "--json"],
        env={"FEEDLOOP_SIGNING_KEY": "very secret key"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "very secret key" not in done.stdout
    assert '"FEEDLOOP_SIGNING_KEY"' in done.stdout


def test_an_error_is_one_sentence_and_exit_code_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "feedloop", "settings"],
        env={"FEEDLOOP_COLLECTOR_PORT": "x"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("feedloop: FEEDLOOP_COLLECTOR_PORT is not usable")
    assert "Traceback" not in done.stderr


def test_the_file_clock_is_seen_by_who_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    clock = clock_from(str(file))
    with pytest.raises(SettingsError, match="clock file"):
        clock.now()
    FileClock(file).set(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    FileClock(file).set(datetime(2026, 1, 2, tzinfo=UTC))
    assert clock.now() == datetime(2026, 1, 2, tzinfo=UTC)
    file.write_text("noon")
    with pytest.raises(SettingsError, match="noon"):
        clock.now()


def test_a_broken_seed_names_its_line(tmp_path: Path) -> None:
    header = "event_type,role,weight,half_life_days,is_label\n"
    path = tmp_path / "event_types.csv"
    with pytest.raises(SeedError, match="is missing"):
        seeds.read_event_types(tmp_path)
    path.write_text(header + "click,engagement,3,30,true\nlike,love,4,60,true\n")
    with pytest.raises(SeedError, match="line 3"):
        seeds.read_event_types(tmp_path)
    path.write_text(header + "click,engagement,3,30,true\n" * 2)
    with pytest.raises(SeedError, match="twice"):
        seeds.read_event_types(tmp_path)


@pytest.mark.parametrize(
    ("policy", "hours"), [("always", 0), ("after:7d", 168), ("after:12h", 12)]
)
def test_a_repeat_policy_is_a_duration(policy: str, hours: int) -> None:
    (surface,) = (
        s
        for s in seeds.read_surfaces(from_environment({}).seeds_dir).values()
        if s.surface == "homepage"
    )
    assert surface.repeat_after is None
    changed = type(surface)(
        **{
            name: getattr(surface, name)
            for name in surface.__struct_fields__
            if name != "repeat_policy"
        },
        repeat_policy=policy,
    )
    assert changed.repeat_after is not None
    assert changed.repeat_after.total_seconds() == hours * 3600
