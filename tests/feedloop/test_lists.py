"""Names of lists and responses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from feedloop.contracts.lists import BuildId, RequestSigner, rec_id
from feedloop.errors import ContractError

AT = datetime(2026, 1, 8, 3, 4, 5, 6, tzinfo=UTC)


def test_a_rec_id_depends_on_each_of_its_parts() -> None:
    names = {
        rec_id("u", "homepage", "m@1"),
        rec_id("v", "homepage", "m@1"),
        rec_id("u", "search", "m@1"),
        rec_id("u", "homepage", "m@2"),
        # parts must not run into one another
        rec_id("uh", "omepage", "m@1"),
    }
    assert len(names) == 5
    assert rec_id("u", "homepage", "m@1") in names


def test_a_build_id_says_what_it_is_made_of() -> None:
    name = str(BuildId("als-xgb-01ab", AT))
    assert name == "als-xgb-01ab@20260108T030405000006Z"
    assert BuildId.parse(name) == BuildId("als-xgb-01ab", AT)


@pytest.mark.parametrize("text", ["", "m", "../x@20260108T030405000006Z", "m@now"])
def test_a_hostile_build_id_is_refused(text: str) -> None:
    with pytest.raises(ContractError):
        BuildId.parse(text)


def test_a_request_id_is_worth_nothing_elsewhere() -> None:
    signer = RequestSigner("a signing key")
    request = signer.sign("rec_1", "u1")
    assert signer.verify(request, "u1") == "rec_1"
    assert signer.verify(request, "u2") is None
    assert RequestSigner("another key").verify(request, "u1") is None
    assert signer.verify(request.replace("rec_1", "rec_2"), "u1") is None
    for rubbish in ("", "rec_1", "a.b.c", "a.b.c.d", "ü.ü.ü"):
        assert signer.verify(rubbish, "u1") is None
    assert signer.sign("rec_1", "u1") != request
