"""``feedloop export`` and ``feedloop serve`` as they are typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec

from exporters.embedded_redis import embedded_redis
from feedloop.clock import FileClock
from feedloop.settings import Settings, from_environment, to_environment
from tests.exporters.builder import COLD_ITEMS, write_build
from tests.exporters.conftest import AS_OF, NOW


def own_home(tmp_path: Path) -> Settings:
    """A home with an embedded store of its own, at NOW."""
    clock_file = str(tmp_path / "clock")
    FileClock(Path(clock_file)).set(NOW)
    return from_environment(
        {}, home=str(tmp_path), namespace="t1", clock_file=clock_file
    )


def feedloop(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feedloop", *arguments],
        env=os.environ | to_environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_build_the_sentence_names_the_command(tmp_path: Path) -> None:
    done = feedloop(own_home(tmp_path), "export")
    assert done.returncode == 1
    assert done.stderr.startswith("feedloop: There is no build")
    assert "feedloop build" in done.stderr


def test_the_newest_build_is_exported_then_served(tmp_path: Path) -> None:
    settings = own_home(tmp_path)
    older = write_build(settings, AS_OF - timedelta(days=1), {"u1": ["x"]})
    newest = write_build(settings, AS_OF, {"u1": ["a", "b"]})
    done = feedloop(settings, "export", "--json")
    assert done.returncode == 0, done.stderr
    report = msgspec.json.decode(done.stdout)
    assert (report["build_id"], report["lists"]) == (newest, 1)

    refused = feedloop(settings, "export", "--build", older)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    unknown = feedloop(settings, "export", "--build", "../etc")
    assert unknown.returncode == 1
    assert "not a build_id" in unknown.stderr

    server = subprocess.Popen(
        [sys.executable, "-m", "feedloop", "serve", "--port", "0"],
        env=os.environ | to_environment(settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    word, _, url = server.stdout.readline().strip().rpartition(" ")
    assert word == "listening on"
    headers = {"X-API-Key": "dev-read"}
    with httpx.Client(base_url=url, headers=headers) as http:
        mine = http.get("/recommendations/u1").json()["items"]
        assert [item["item_id"] for item in mine] == ["a", "b"]
        theirs = http.get("/recommendations/u2").json()["items"]
        assert [item["item_id"] for item in theirs] == COLD_ITEMS
        # An export beside a running server uses its store and leaves it running.
        assert feedloop(settings, "export").returncode == 0
        assert http.get("/recommendations/u1").status_code == 200
    server.send_signal(signal.SIGTERM)
    server.communicate()
    assert server.returncode == 0
    assert not (settings.redis_dir / "redis.sock").exists()
    with embedded_redis(settings):
        pass
