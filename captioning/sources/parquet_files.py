"""Parquet files of a stranger: what their columns unpack to, known before they are read."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from captioning.system.errors import UserError
from captioning.system.reading import open_regular, unpacks_too_far


def check_files(folder: Path) -> None:
    """Raise `UserError` for a Parquet file below `folder` that is damaged, or unpacks too far."""
    import pyarrow
    import pyarrow.parquet

    for path in sorted(folder.rglob("*.parquet")):
        try:
            with open_regular(path) as file:
                check_unpacked(pyarrow.parquet.read_metadata(file))
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read: {reason}. Get a good copy.") from None


def check_unpacked(metadata: Any, columns: Collection[str] = ()) -> None:
    """Raise `ValueError` where one of some columns (all by default) is far larger unpacked than
    packed, as no pictures and no captions are."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            is_read = not columns or chunk.path_in_schema.split(".")[0] in columns
            if is_read and unpacks_too_far(packed, unpacked):
                raise ValueError(
                    f"its column {chunk.path_in_schema} has {packed:,} bytes that unpack to "
                    f"{unpacked:,}"
                )
