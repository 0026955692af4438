"""Parquet files of a stranger: what their columns unpack to, known before they are read; which of
them holds pictures; the rows of one that holds none."""

import io
from pathlib import Path
from typing import Any

from captioning.sources.caption_fields import FormatError, UncertainError
from captioning.sources.caption_fields import image_column as named_image_column
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


def stored_picture_column(schema: Any) -> str | None:
    """The column of pictures in a Parquet file: of bytes, alone or beside a path, as `datasets`
    stores its images.

    Found by what is stored; what the file says about itself in JSON is not believed.
    """
    import pyarrow.types as types

    def holds_pictures(kind: Any) -> bool:
        if types.is_struct(kind):
            return {"bytes", "path"} <= {field.name for field in kind}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    columns = [field.name for field in schema if holds_pictures(field.type)]
    return named_image_column(columns) or next(iter(columns), None)


def caption_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows of a file of names and captions. Raises `FormatError` for any other."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        check_unpacked(table.metadata, len(data))
        if stored_picture_column(table.schema_arrow):
            raise UncertainError(
                "it is Parquet that holds the pictures, too; give its folder with --DATASET_SOURCE"
            )
        batches = table.iter_batches(use_threads=False)
        return [row for batch in batches for row in batch.to_pylist()]
    except FormatError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise FormatError(f"it is damaged Parquet ({error})") from None
