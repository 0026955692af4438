"""Parquet files of a stranger: what their columns unpack to, known before they are read."""

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
                check_unpacked(pyarrow.parquet.read_metadata(file), path.stat().st_size)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read: {reason}. Get a good copy.") from None


def check_unpacked(metadata: Any, packed: int) -> None:
    """Raise `ValueError` where a file of so many bytes unpacks to far more, as no pictures and no
    captions do. Asks for whole groups of rows: the library aborts where it describes columns that
    are damaged."""
    unpacked = sum(
        metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)
    )
    if unpacks_too_far(packed, unpacked):
        raise ValueError(f"its {packed:,} bytes unpack to {unpacked:,}")
