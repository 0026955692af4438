"""Upload a checkpoint to the Hugging Face Hub by hand.

    python hub.py upload checkpoints/my-run/best user/my-captioner [--private]
    python hub.py upload checkpoints/my-run/best user/my-captioner --add my-hf --add my-onnx

Only the files of a checkpoint travel, without places and accounts; the optimizer never does.
`--add` puts what `export.py` made of it beside it, and the card says how each is used. The token is
the one of `hf auth login` or HF_TOKEN. `train.py --HF_UPLOAD_BEST_CHECKPOINTS` uploads while it
trains.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from captioning.sharing.repository import upload_checkpoint
from captioning.system.errors import EXIT_DONE, run_command
from captioning.system.rules import TYPED
from config import settings_with


def main(argv: Sequence[str] | None = None) -> int:
    """Upload a checkpoint folder by hand."""
    parser = argparse.ArgumentParser(prog="hub.py", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    upload = commands.add_parser("upload", help="upload a checkpoint folder in one commit")
    upload.add_argument("folder", type=Path, help="such as checkpoints/my-run/best")
    upload.add_argument("repo", help="such as user/my-captioner; made if it is missing")
    upload.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of export.py, made of this checkpoint (transformers or onnx); may come twice",
    )
    upload.add_argument("--data-license", default="", help="of the pictures, for the card")
    upload.add_argument("--private", action="store_true", help="if it has to be made")
    upload.add_argument("--message", default="", help="of the commit (its scores by default)")
    options = parser.parse_args(argv)
    print(
        upload_checkpoint(
            options.folder,
            options.repo,
            left_out=settings_with(TYPED),
            added=options.add,
            data_license=options.data_license,
            private=options.private,
            message=options.message,
        )
    )
    return EXIT_DONE


if __name__ == "__main__":
    run_command(main)
