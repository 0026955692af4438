"""A page on this machine: try a model, review the captions of a folder, learn from corrections.

    python app.py --folder holiday                             # the newest `best` there is
    python app.py --checkpoint checkpoints/demo/best --folder holiday
    python app.py --checkpoint checkpoints/demo/best you/captioner        # side by side
    python app.py --host 0.0.0.0 --port 7860 --no-open         # as a Space of Hugging Face has it

Opens in the browser; nothing leaves the machine, and nobody else reaches it unless `--host` says
so. Corrections are on disk as soon as they are made (`corrections.journal` in the folder), and
become `corrections.jsonl`, from which `train.py` learns. Ctrl-C ends it. Needs the extra `app`.
"""

import os
import socket
import sys
import warnings
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from captioning.system.errors import EXIT_DONE, UserError, run_command
from captioning.system.options import parse_options
from captioning.system.rules import within
from config import Config
from generate import GenerateOptions, check_options, search_options, token_rules

if TYPE_CHECKING:
    from PIL import Image

    from captioner import Captioner
    from captioning.app.desk import Said
    from captioning.app.learning import Beginning
    from captioning.app.server import Page

WISHES = (
    "method beam_size num_captions length_penalty groups diversity_penalty temperature top_k top_p "
    "min_p seed min_length max_length no_repeat_ngram repetition_penalty prefix choose"
).split()
"""Options of `generate.py` that the page may set."""

LEARNT_ALIKE = "ENCODER_TRAINED_BLOCKS DECODER_DROPOUT LABEL_SMOOTHING WEIGHT_DECAY".split()
"""Settings of a training with which the model learns on from corrections."""
SLOWER = 4
"""By how much it does."""


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """What the page shows, and to whom."""

    checkpoint: tuple[str, ...] = ()
    """Checkpoint folders or Hub repositories, side by side; drafts are of the first (default: the
    newest `best` under output-dir)."""
    output_dir: str = "checkpoints"
    """Where to look for the newest `best`."""
    folder: str = ""
    """Pictures to review, with those in folders below."""
    captions: str = ""
    """Captions of the folder, as CAPTIONS_FILE says it: a file, .txt, metadata (default: what is
    found in the folder)."""
    corrections: str = ""
    """Captions file of what was corrected (default: corrections.jsonl in the folder); the journal
    of which it is made lies beside it."""
    draft: bool = True
    """Caption in the background what has no caption yet."""
    data_dir: str = ""
    """Folder of prepared data sets, for searches that ask neighbours (default: as in training)."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets everybody in who reaches this machine."""
    port: Annotated[int, within(0, 65_535)] = 7860
    """Port to listen on (0 = one that is free)."""
    known_as: tuple[str, ...] = ()
    """Names by which browsers reach the page, besides localhost and addresses."""
    open: bool = True
    """Open the page in a browser."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    trust_remote_code: bool = False
    """Run code that the encoder's repository brings along. Only for repositories you trust."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load the models, list the folder, serve the page until Ctrl-C."""
    options = parse_options(
        AppOptions,
        sys.argv[1:] if argv is None else argv,
        description="Try a model, review the captions of a folder, learn from corrections.",
    )
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(
            f"The page needs {' and '.join(missing)}: pip install -e '.[app]' -c constraints.txt"
        )
    with listening(options) as listener, warnings.catch_warnings():
        # Set once for all threads: what Pillow warns of is either an error or no matter.
        warnings.simplefilter("ignore")
        page = make_page(options)
        for note in page.notes:
            print(note, file=sys.stderr)
        serve(page, options, listener)
    return EXIT_DONE


def listening(options: AppOptions) -> socket.socket:
    """A socket at the address of the options. Raises `UserError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen()  # who comes before the page is there waits for it
    except OSError as error:
        listener.close()
        raise UserError(
            f"{options.host}, port {options.port}, cannot be listened on: {error.strerror}. Take "
            "another port, or any that is free: --port 0"
        ) from None
    return listener


def make_page(options: AppOptions) -> "Page":
    """The models, and the folder with what is said of its pictures."""
    from captioning.app.album import Album
    from captioning.app.corrections import Corrections
    from captioning.app.drafts import Drafting
    from captioning.app.learning import CORRECTIONS, drafts_path
    from captioning.app.server import Page
    from captioning.sources.origins import files_fingerprint

    if not options.folder and (options.captions or options.corrections):
        raise UserError("--captions and --corrections are of a folder; name it: --folder PICTURES")
    names = options.checkpoint or (_newest(options.output_dir),)
    models = [_load(name, options) for name in names]
    beginning, album, drafting = _beginning(models[0]), None, None
    if options.folder:
        folder = Path(options.folder)
        if not folder.is_dir():
            raise UserError(f"--folder is {options.folder!r}; name a folder with pictures.")
        corrections = Corrections(Path(options.corrections or folder / CORRECTIONS))
        album = Album(folder, corrections)
        fingerprint = files_fingerprint(names[0]) if Path(names[0]).is_dir() else names[0]
        path = drafts_path(corrections.path, fingerprint)
        drafting = Drafting(album, models[0].drafts, path, is_on=options.draft)
    return Page(models, beginning, album, drafting, options.captions)


def serve(page: "Page", options: AppOptions, listener: socket.socket) -> None:
    """Answer until a signal ends it."""
    import uvicorn

    from captioning.app.server import build

    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "::") else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    application = build(page, host=options.host, names=options.known_as)
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    print(f"The page is at {address} until Ctrl-C.", flush=True)
    has_screen = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {
        *os.environ
    }
    if options.open and has_screen:
        webbrowser.open(address)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("Ended.", file=sys.stderr)


class PageModel:
    """A captioner as the page asks it."""

    def __init__(self, name: str, captioner: "Captioner", data_dir: str = "") -> None:
        """`name` is what the user called it; prepared data are in `data_dir` ("" = as trained)."""
        self.name, self.captioner, self._data_dir = name, captioner, data_dir
        self._asking: Captioner | None = None

    @property
    def usual(self) -> Mapping[str, Any]:
        """How it searches where nobody says otherwise."""
        config = self.captioner.config
        return {"beam_size": config.BEAM_SIZE, "length_penalty": config.LENGTH_PENALTY}

    def captions(self, picture: "Image.Image", wishes: Mapping[str, str]) -> list["Said"]:
        """Captions of a picture, best first, with what their words looked at."""
        from captioner import attend, word_attention
        from captioning.app.desk import Said
        from captioning.sources.records import WordHeat

        options = _wished(wishes)
        captioner = self._asks_neighbours() if options.choose == "neighbours" else self.captioner
        search, rules = search_options(options, captioner.config), token_rules(options, captioner)
        pipeline, features = captioner.pipeline, captioner.features([picture])
        (found,) = pipeline.captions(features, search, rules=rules)
        ids = [caption.ids for caption in found]
        said = []
        weights = attend(pipeline, features.expand(len(ids), -1, -1), ids) if ids else []
        for caption, heat in zip(found, weights, strict=True):
            looks = word_attention(pipeline, caption.ids, heat, picture.size)
            words = [word for word in pipeline.tokenizer.words(caption.ids) if word.text]
            chances = [chance for _, chance in caption.token_probabilities]
            sure = [_mean(chances[word.start : word.stop]) for word in words]
            size = _heat_size(picture.size)
            heats = [WordHeat(look.text, look.heat(size)) for look in looks]
            pairs = list(zip(heats, sure, strict=True))
            said.append(Said(caption.text, caption.log_probability, caption.confidence, pairs))
        return said

    def drafts(self, pictures: Sequence["Image.Image"]) -> list[tuple[str, float]]:
        """The best caption of each picture, with how sure the model is of it."""
        return [(one.text, one.confidence) for one in self.captioner(list(pictures))]

    def _asks_neighbours(self) -> "Captioner":
        """The same with similar training pictures; what they need is made at the first call."""
        from captioner import Captioner
        from checkpoint import data_folder

        if self._asking is None:
            usual = self.captioner
            asking = Captioner(usual.pipeline, usual.config, is_ours=usual.is_ours)
            place = data_folder(self.name, usual.config, self._data_dir)
            asking.ask_neighbours(place / usual.config.dataset_name)
            self._asking = asking
        return self._asking


def _wished(wishes: Mapping[str, str]) -> GenerateOptions:
    """Options of `generate.py`, from what the page asks for. Raises `UserError`."""
    if unknown := [name for name in wishes if name not in WISHES]:
        raise UserError(f"There is no setting {unknown[0]!r} of the search here.")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in wishes.items() if value]
    options = parse_options(GenerateOptions, ["--image=picture", *words])
    check_options(options)
    return options


def _heat_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with which heat is sent: it is smooth, and drawn larger."""
    from captioning.reports.gallery import HEAT_SIDE

    scale = HEAT_SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _mean(chances: Sequence[float]) -> float:
    """The geometric mean."""
    from statistics import geometric_mean

    return geometric_mean(chances) if chances and min(chances) > 0 else 0.0


def _load(name: str, options: AppOptions) -> PageModel:
    from captioner import Captioner

    captioner = Captioner.from_pretrained(
        name, device=options.device, trust_remote_code=options.trust_remote_code
    )
    return PageModel(name, captioner, options.data_dir)


def _beginning(model: PageModel) -> "Beginning":
    """The first model, as the one that is to learn."""
    from captioning.app.learning import Beginning
    from checkpoint import data_folder

    config = model.captioner.config
    try:
        old = data_folder(model.name, config) / config.dataset_name
    except UserError:
        old = Path()
    has_old = bool(config.DATASET) and (old / "train").is_dir() and not config.STREAM
    return Beginning(
        model.name,
        learning_settings(config),
        old_data=str(old) if has_old else "",
        data_dir=Config.DATA_DIR,
    )


def learning_settings(config: Config) -> dict[str, object]:
    """How a model that was trained so learns on: alike, but more slowly."""
    kept = {
        name: getattr(config, name)
        for name in LEARNT_ALIKE
        if getattr(config, name) != getattr(Config, name)
    }
    rates = ["LEARNING_RATE"] + ["ENCODER_LEARNING_RATE"] * bool(config.ENCODER_TRAINED_BLOCKS)
    return {**kept, **{name: f"{getattr(config, name) / SLOWER:.2g}" for name in rates}}


def _newest(output_dir: str) -> str:
    from checkpoint import newest_best

    return os.fspath(newest_best(Path(output_dir)))


if __name__ == "__main__":
    run_command(main)
