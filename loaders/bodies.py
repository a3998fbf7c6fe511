"""Reading a request's body: bounded, unpacked, parsed."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

GZIP = 16 + zlib.MAX_WBITS
# A client that is still sending when it is refused might never read why.
DRAIN_BYTES = 16_000_000


async def read_json(request: Request[Any, Any, Any], limit: int) -> Any:
    """The JSON value of a body of at most ``limit`` bytes, unpacked.

    Raises Litestar's 413, 415 for an encoding other than gzip, and 400 for
    what is no gzip or no JSON.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        body = await _read(request.stream(), limit)
    elif encoding in ("gzip", "x-gzip"):
        body = await _read(_unpacked(request.stream(), limit), limit)
    else:
        raise HTTPException(
            status_code=415,
            detail=f"A body encoded as {encoding} can't be read; send gzip or none.",
            headers={"Accept-Encoding": "gzip"},
        )
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(
            status_code=400, detail=f"The body is not JSON: {error}."
        ) from error
    except RecursionError as error:
        raise HTTPException(
            status_code=400, detail="The body is nested too deeply."
        ) from error


async def _read(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    found: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size <= limit:
            found.append(chunk)
        elif size > limit + DRAIN_BYTES:
            break
    if size > limit:
        raise HTTPException(
            status_code=413,
            detail=f"The body has more than {limit} bytes; send fewer events at "
            "a time.",
        )
    return b"".join(found)


async def _unpacked(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """What gzip packed into ``chunks``, never more than ``limit`` at once."""
    unpacker = zlib.decompressobj(GZIP)
    try:
        async for chunk in chunks:
            packed = chunk
            while packed:
                if unpacker.eof:  # gzip files may follow one another
                    unpacker = zlib.decompressobj(GZIP)
                yield unpacker.decompress(packed, limit + 1)
                packed = unpacker.unconsumed_tail or unpacker.unused_data
    except zlib.error as error:
        raise HTTPException(
            status_code=400, detail=f"The body is not gzip: {error}."
        ) from error
    if not unpacker.eof:
        raise HTTPException(
            status_code=400, detail="The body's gzip ends before it is complete."
        )
