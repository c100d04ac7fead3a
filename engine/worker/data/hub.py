"""Rows of a dataset on the hub, as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.data.sources import Source

HUB_TIMEOUT_S = 5.0
"""How long the hub may take to answer whether it has a dataset; `datasets` alone tries for half a minute."""
READ_ROWS = 512


class SourceError(Exception):
    """A source that cannot be read at all. The message is for the person."""


def rows_of_hub(source: Source) -> Iterator[dict[str, Any]]:
    """Rows as they are stored: pictures and sounds are not decoded.

    No code of the dataset's own is run; the token is the one that `hf auth login` keeps. Raises SourceError.
    """
    import datasets
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(source.name, timeout=HUB_TIMEOUT_S)
        stream = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
        for table in stream.with_format("arrow").iter(READ_ROWS):
            yield from table.to_pylist()
    except Exception as error:  # of the network, the hub, or any of the readers beneath
        raise SourceError(_why_not(source, error)) from None


def _why_not(source: Source, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{source.name} is gated: accept its licence on the hub, then log in here with `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):  # the hub does not tell a private dataset from none
        return (
            f"The hub has no dataset {source.name!r} that this machine may see, and there is no file or folder of that "
            "name. Check the spelling; for a private dataset log in with `hf auth login`."
        )
    said = first_line(error)
    if isinstance(error, ValueError):  # an unknown configuration or split, whose message lists those there are
        return f"{source.short_name} cannot be read: {said} data.name and data.split choose among them."
    if "script" in said:
        return f"{source.name} comes with code of its own, which is not run. Look for a copy of it in Parquet."
    return (
        f"{source.short_name} cannot be read from the hub ({type(error).__name__}: {said}) Check the network and its "
        "proxy, or download its files and name them in data.train."
    )


def first_line(error: Exception) -> str:
    """Of its message; it ends like a sentence."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0][:300]
    return line if line.endswith(".") else f"{line}."
