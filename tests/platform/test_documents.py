"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedloop.cli import COMMANDS, group
from feedloop.settings import PREFIX, describe

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("exporters/*.md")]
)
TEXT = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}


def test_the_documents_are_there() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "architecture.md",
        "quality.md",
        "KEYSPACE.md",
    } <= names
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_named_settings_exist() -> None:
    known = {entry["variable"] for entry in describe()}
    for path, text in TEXT.items():
        named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", text))
        assert named <= known, path.name


def test_named_commands_exist() -> None:
    for path, text in TEXT.items():
        for name in re.findall(r"(?:^|[`$] ?)feedloop ([a-z-]+)", text, re.M):
            assert name in COMMANDS, f"{path.name}: feedloop {name}"


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for path, text in TEXT.items():
        for name in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.M):
            assert name in targets, f"{path.name}: make {name}"


def test_links_between_documents_lead_somewhere() -> None:
    for path, text in TEXT.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_no_document_names_a_place_on_one_machine() -> None:
    for path, text in TEXT.items():
        assert re.findall(r"(?<![\w.])/(?:home|Users|root|work)/\w+", text) == [], path


def test_the_readme_names_every_command() -> None:
    readme = TEXT[ROOT / "README.md"]
    for name in COMMANDS:
        assert f"feedloop {name}" in readme or name == "demo", name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    assert re.search(r"Examples?:.*feedloop", result.output, re.S)
