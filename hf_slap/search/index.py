"""SoundIndex: keeps an index of folders of sounds up to date, and finds sounds in it by words or by an example."""

import copy
import hashlib
import json
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.constants import HF_HOME

from ..sound_files import AUDIO_SUFFIXES
from .neighbours import Neighbours, grow
from .store import FILE_NAME, FileState, Sound, Store

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path(HF_HOME) / "hf_slap" / "index"
# Not stated; chosen because a sound effect or a sentence fits in, and a result can be listened to at once.
WINDOW_SECONDS = 10.0
OVERLAP_SHARE = 0.2  # of a window: what happens at a border is heard whole by one of the two
_LINKS_AT_ONCE = 256


@dataclass(frozen=True)
class Match:
    """A stretch of sound that was found.

    Args:
        path: absolute.
        start, end: in seconds of the file; files up to the index's window are one stretch.
        score: cosine of the embeddings, at most 1.
        copies: other files with the same content.
    """

    path: str
    start: float
    end: float
    score: float
    copies: tuple[str, ...] = ()


@dataclass
class Update:
    """What an update did.

    Args:
        added, changed: files that are new or have another content.
        moved: new files whose content was at a path that is gone; copied: whose content is also elsewhere. Neither is
            listened to.
        removed: files that are gone.
        unchanged: files that are as they were.
        embedded: sounds that were listened to, `seconds` long together.
        failed: (path, reason) of files that could not be heard.
        took: seconds of time.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    seconds: float = 0.0
    failed: list[tuple[str, str]] = field(default_factory=list)
    took: float = 0.0

    @property
    def summary(self) -> str:
        """The same in a line."""
        names = ("added", "changed", "moved", "copied", "removed", "unchanged")
        counts = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        counts += [f"{len(self.failed)} failed"] * bool(self.failed)
        heard = f"; listened to {self.embedded} sounds, {self.seconds / 3600:.2f} h, in {self.took:.1f} s"
        return (", ".join(counts) or "nothing there") + heard * bool(self.embedded)


class SoundIndex:
    """An index of sound files on this machine.

        index = SoundIndex("my-index")
        index.update("sounds")
        index.search("rain on a tin roof", k=5)

    Sounds are known by their content: a file that was moved or copied is not listened to again, and the vectors of one
    that vanished are kept for thirty days. Long files are cut into windows, each with a vector of its own. An index
    belongs to one model; another one is refused. Its folder should lie on a disk of this machine (SQLite's locks are
    not reliable on network disks); the sounds may lie anywhere. What SQLite and faiss read must be trusted: use no
    index of strangers.

    Args:
        folder: of the index, made by the first update; default: `DEFAULT_FOLDER`, one index for all you have.
        model: a folder or Hub id, a `Listener`, or a `SlapModel`; default: the one that made the index, and for a new
            index the one that comes with this package.
        processor: a `SlapProcessor`; needed beside an open model.
        revision: of a Hub id.
        device: default: where the model is; for a folder CUDA if there is any, else the CPU.
        window_seconds: length of the windows of a new index, at most what the model was trained on; they overlap by a
            fifth. Default: 10, or less if the model was trained on less.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        model: Any = None,
        processor: Any = None,
        *,
        revision: str | None = None,
        device: "torch.device | str | None" = None,
        window_seconds: float | None = None,
    ):
        self.folder = Path(folder or DEFAULT_FOLDER).expanduser().absolute()
        self._given, self._processor, self._revision, self._device = model, processor, revision, device
        self._window_seconds = window_seconds
        self._store: Store | None = None
        self._neighbours: Neighbours | None = None
        self._model: _Model | None = None

    def __enter__(self) -> "SoundIndex":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; the next use opens them again."""
        if self._store:
            self._store.close()
        self._store = self._neighbours = None

    # -------------------------------------------------------------------------------------------- update

    def update(
        self,
        sources: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        workers: int | None = None,
        batch_seconds: float | None = None,
        progress: bool = True,
    ) -> Update:
        """Makes the index agree with folders and files: listens to what is new or changed, takes out what is gone.

        Every few minutes of sound are committed. Killed at any moment, the next update goes on from there. While one
        process updates, others wait for their turn, and all may search.

        Args:
            sources: folders (searched to the bottom; hidden files and folders are left out) and files; default: the
                folders that were indexed before.
            workers, batch_seconds: as in `hf_slap.embed`.
            progress: show a bar on stderr.
        Raises:
            FileNotFoundError: a source that is not there, or a folder of which nothing is left (a disk that is not
                connected?); the index then stays as it is.
            ValueError: another model made the index; it is damaged; there is nothing to index.
        """
        begun = time.monotonic()
        files, folders = _existing(self._open().folders() if sources is None else sources)
        if not (self.folder / FILE_NAME).exists() and next(_walk(files, folders, []), None) is None:
            raise ValueError(f"no sound file in {', '.join(folders)}; known are {sorted(AUDIO_SUFFIXES)}")
        with self._turn_to_update():
            store = self._open(create=True)
            model = self._model_of_index(store, create=True)
            report = Update()
            report.unchanged, pending = store.compare(_walk(files, folders, report.failed), folders)
            _Round(store, model, report).run(pending, workers, batch_seconds, progress)
            report.removed = store.finish_update()
            grow(store)
        report.took = time.monotonic() - begun
        logger.info(report.summary)
        return report

    def forget(self, path: str | os.PathLike) -> int:
        """Takes a file or a folder out of the index, whether it still exists or not. Returns the number of files."""
        self._open()
        with self._turn_to_update():
            return self._store.forget(os.path.abspath(os.path.expanduser(path)))

    # -------------------------------------------------------------------------------------------- search

    def search(
        self,
        text: str | None = None,
        audio: Any = None,
        k: int = 10,
        *,
        per_file: int | None = 3,
        exact: bool = False,
        sampling_rate: int | None = None,
        resample: bool = False,
    ) -> list[Match]:
        """The sounds that are most like a text or another sound.

        Args:
            text: such as "rain on a tin roof".
            audio: in place of the text: a path, URL, bytes, array ... as `SlapFeatureExtractor.load` takes it.
            k: how many.
            per_file: at most so many stretches of one file; None: any number.
            exact: compare with every window even where there is an index of neighbours.
            sampling_rate, resample: for an array.
        Returns:
            at most k matches, best first.
        Raises:
            FileNotFoundError: there is no index yet.
            ValueError: not one of text and audio, an empty text, k below 1; another model made the index.
            AudioError: the example cannot be heard.
        """
        if (text is None) == (audio is None):
            raise ValueError("pass either a text or, as audio=..., an example")
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ValueError(f"text={text!r}; pass some words")
        if k < 1 or (per_file is not None and per_file < 1):
            raise ValueError(f"k={k} and per_file={per_file} must be at least 1")
        store = self._open()
        model = self._model_of_index(store)
        query = model.embed(text, audio, sampling_rate, resample)
        return self._nearest(store, query, k, per_file, exact)

    def _nearest(self, store: Store, query: np.ndarray, k: int, per_file: int | None, exact: bool) -> list[Match]:
        count = 4 * k
        while True:
            ids, scores = self._neighbours.nearest(query, count, exact)
            places, taken, matches = store.places(ids), Counter(), []
            for window, score in zip(ids.tolist(), scores.tolist(), strict=True):
                if window not in places:  # its files are gone
                    continue
                sound, start, end, (path, *copies) = places[window]
                taken[sound] += 1
                if per_file is None or taken[sound] <= per_file:
                    matches.append(Match(path, start, end, score, tuple(copies)))
            if len(matches) >= k or (exact and len(ids) < count):
                return matches[:k]
            exact, count = exact or len(ids) < count, 4 * count

    # -------------------------------------------------------------------------------------------- what is in it

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(path, reason) of the files that could not be heard; every update tries them again."""
        return self._open().failures()

    def describe(self) -> dict[str, Any]:
        """Folders, numbers of files, sounds, windows, seconds and failures, the model, the window, bytes on disk."""
        store = self._open()
        facts = json.loads(store.fact("model") or "{}")
        return {
            "index": str(self.folder),
            "folders": store.folders(),
            **store.counts(),
            "model": facts.get("name") or _BUNDLED,
            "revision": facts.get("revision"),
            "window_seconds": facts.get("window_seconds"),
            "bytes": sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file()),
        }

    # -------------------------------------------------------------------------------------------- inside

    def _turn_to_update(self) -> Any:
        """A lock that is free again when its process ends, however it ends."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "update.lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            logger.warning(f"another process is updating the index in {str(self.folder)!r}; waiting for it")
            return lock.acquire()

    def _open(self, create: bool = False) -> Store:
        if self._store is None:
            self._store = Store(self.folder, create)
            self._neighbours = Neighbours(self._store)
        return self._store

    def _model_of_index(self, store: Store, create: bool = False) -> "_Model":
        """The model, loaded once, and compared with the one that made the index."""
        recorded = store.fact("model")
        facts = json.loads(recorded) if recorded else None
        if self._model is None:
            given, revision = self._given, self._revision
            if given is None and facts:
                given, revision = facts["name"], facts["revision"]
            window = self._window_seconds or (facts["window_seconds"] if facts else None)
            try:
                self._model = _Model(given, self._processor, revision, self._device, window)
            except OSError as error:
                if self._given is not None or not given:
                    raise
                raise FileNotFoundError(
                    f"the index in {str(self.folder)!r} was made by {given!r}, which cannot be opened ({error}); name "
                    "the folder where it is now: model=... or --model"
                ) from error
        now = self._model.facts
        if facts is None:
            if not create:
                raise FileNotFoundError(f"the index in {str(self.folder)!r} is empty; `slap index FOLDER` fills it")
            with store.transaction():
                store.set_fact("model", json.dumps(now))
        elif facts["window_seconds"] != now["window_seconds"]:
            raise ValueError(
                f"the index in {str(self.folder)!r} has windows of {facts['window_seconds']:g} s, "
                f"not {now['window_seconds']:g}; leave window_seconds out, or make an index in another folder"
            )
        elif facts["fingerprint"] != now["fingerprint"]:
            from ..checkpoint import differences

            name = facts["name"] or _BUNDLED
            raise ValueError(
                f"the index in {str(self.folder)!r} was made by {name!r} (revision {facts['revision']}, hf_slap "
                f"{facts['hf_slap']}) and not by {now['name'] or _BUNDLED!r}; vectors of different models cannot be "
                "compared. Leave the model out to use the one that made the index, or make an index of this one in "
                "another folder (`slap index --index OTHER --model MODEL FOLDER`). They differ in:\n  "
                + "\n  ".join(differences(facts["fingerprint"], now["fingerprint"]))
            )
        return self._model


_BUNDLED = "slap-nano"
_DIGEST = len("sha256:") + 16  # characters of a digest that are kept


class _Model:
    """A listener, how it hears windows, and the facts by which it is known again."""

    def __init__(self, given: Any, processor: Any, revision: str | None, device: Any, window_seconds: float | None):
        from .. import __version__, bundled
        from ..embedding import model_fingerprint, open_audio_side, weights_digest
        from ..listening import Listener

        if given == "":
            raise ValueError("the index was made by an open model without a name; pass model=... and processor=...")
        opened = isinstance(given, Listener)
        self.listener = given if opened else Listener(given, processor, revision=revision, device=device)
        model, place = self.listener.model, self.listener.place
        self.side, self.extractor = open_audio_side(model, self.listener.processor, None, None)
        trained = self.side.config.audio_config
        if window_seconds is None:
            window_seconds = min(WINDOW_SECONDS, trained.max_audio_seconds)
        if not 0 < window_seconds <= trained.max_audio_seconds:
            raise ValueError(
                f"window_seconds={window_seconds:g}; accepted are up to {trained.max_audio_seconds:g}, the length that "
                "the model was trained on"
            )
        self.config = copy.deepcopy(trained)
        self.config.long_audio = "windows"
        self.config.max_audio_seconds = float(window_seconds)
        self.config.window_overlap_seconds = OVERLAP_SHARE * window_seconds
        fingerprint = model_fingerprint(self.side, self.extractor, False)
        for free in ("hf_slap", "precision"):  # a new release, or half precision, keeps the space
            del fingerprint[free]
        text = {name: value for name, value in model.state_dict().items() if name.startswith("text_")}
        fingerprint["text weights"] = weights_digest(text)
        self.facts = {
            "name": None if place == bundled(_BUNDLED) else os.path.abspath(place) if os.path.isdir(place) else place,
            "revision": getattr(model.config, "_commit_hash", None),
            "hf_slap": __version__,
            "window_seconds": window_seconds,
            "fingerprint": {
                name: value[:_DIGEST] if "weights" in name else value for name, value in fingerprint.items()
            },
        }

    def embed(self, text: str | None, audio: Any, sampling_rate: int | None, resample: bool) -> np.ndarray:
        """(P,) of a text, or of a sound as a whole: of a long one, the mean of its windows."""
        from ..modeling.audio_slap import AudioError

        if audio is None:
            return self.listener.embed_texts([text])[0]
        rates = {"sampling_rate": sampling_rate, "resample": resample}
        (clip,) = self.listener.embed([("the example", audio)], workers=1, **rates)
        if clip.reason is not None:
            raise AudioError(clip.reason)
        return clip.embedding

    def spans(self, owned: Sequence[int], seconds: float) -> list[tuple[float, float]]:
        """Start and end of the stretch that each window of a sound stands for."""
        column = self.config.patch_frames / self.config.frames_per_second
        edges = [columns * column for columns in accumulate(owned, initial=0)]
        return list(zip(edges[:-1], [*edges[1:-1], seconds], strict=True))


# ------------------------------------------------------------------------------------------------ one update


class _Round:
    """Listens to what is pending. Threads call `_sounds`; a lock in the store makes them take turns."""

    def __init__(self, store: Store, model: _Model, report: Update):
        self.store, self.model, self.report = store, model, report
        self.states: dict[str, tuple[FileState, bytes]] = {}  # of files that are being listened to
        self.claimed: set[bytes] = set()  # contents of these, and of those that failed
        self.reasons: dict[bytes, str] = {}  # why contents failed
        self.known: list[tuple[FileState, bytes]] = []  # files of sounds that are in the store
        self.waiting: deque[tuple[FileState, bytes]] = deque()  # copies of what is being listened to

    def run(self, pending: int, workers: int | None, batch_seconds: float | None, progress: bool) -> None:
        from tqdm.auto import tqdm

        from ..embedding import embed_clips

        side, extractor, config = self.model.side, self.model.extractor, self.model.config
        how = {"config": config, "each_window": True, "workers": workers, "batch_seconds": batch_seconds}
        with tqdm(total=pending, desc="listening", unit="file", disable=not progress, file=sys.stderr) as self.bar:
            for ended in embed_clips(self._sounds(), side, extractor, bar=self.bar, **how):
                self._commit(ended)
            self._commit([])

    def _sounds(self) -> Iterator[tuple[str, str]]:
        """Files whose content nobody has listened to."""
        for file in self.store.pending():
            try:
                content = _digest(file.path)
            except OSError as error:
                with self.store.transaction():
                    self._fail(file, str(error))
                continue
            if content in self.claimed:
                self.waiting.append((file, content))
            elif self.store.knows(content):  # asked after `claimed`, which `_commit` empties when the store knows
                self.known.append((file, content))
                if len(self.known) >= _LINKS_AT_ONCE:
                    self._link_known()
            else:
                self.claimed.add(content)
                self.states[file.path] = (file, content)
                yield file.path, file.path
        self._link_known()

    def _commit(self, ended: Iterable[Any]) -> None:
        heard = set()
        with self.store.transaction():
            for clip in ended:
                file, content = self.states.pop(clip.id)
                seconds = clip.samples / self.model.extractor.sampling_rate
                reason = clip.reason
                if _state(file.path) != file:
                    reason = "it was changed while it was read; update again"
                if reason:
                    self.reasons[content] = reason
                    self._fail(file, reason)
                    continue
                self.store.add_sound(Sound(content, seconds, self.model.spans(clip.owned, seconds), clip.embedding))
                heard.add(content)
                self.report.embedded += 1
                self.report.seconds += seconds
                self._link(file, content)
            for _ in range(len(self.waiting)):
                file, content = self.waiting.popleft()
                if content in self.reasons:
                    self._fail(file, self.reasons[content])
                elif self.store.knows(content):
                    self._link(file, content)
                else:
                    self.waiting.append((file, content))
        self.claimed -= heard

    def _link_known(self) -> None:
        with self.store.transaction():
            for file, content in self.known:
                self._link(file, content)
        self.known = []

    def _link(self, file: FileState, content: bytes) -> None:
        outcome = self.store.add_file(file, content)
        name = "unchanged" if outcome == "touched" else outcome
        setattr(self.report, name, getattr(self.report, name) + 1)
        self.bar.update()

    def _fail(self, file: FileState, reason: str) -> None:
        self.store.add_failure(file, reason)
        self.report.failed.append((file.path, reason))
        self.bar.update()


# ------------------------------------------------------------------------------------------------ files


def _existing(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> tuple[list[str], list[str]]:
    """Absolute paths of the files and of the folders among the sources."""
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not sources:
        raise ValueError("the index knows no folder yet; name one")
    paths = [os.path.abspath(os.path.expanduser(source)) for source in sources]
    for path in paths:
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"no file or folder {path!r}; if it is gone for good: `slap index --forget {path}` or "
                f"`.forget({path!r})`"
            )
    return [path for path in paths if not os.path.isdir(path)], [path for path in paths if os.path.isdir(path)]


def _walk(files: list[str], folders: list[str], failed: list[tuple[str, str]]) -> Iterator[FileState]:
    """The files, and the sound files of the folders. Names that are no UTF-8 are listed as failed."""

    def inside() -> Iterator[str]:
        for top in folders:
            for folder, below, names in os.walk(top):
                below[:] = [name for name in below if not name.startswith(".")]
                for name in names:
                    if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith("."):
                        yield os.path.join(folder, name)

    for path in (*files, *inside()):
        if path != (shown := os.fsencode(path).decode("utf-8", "backslashreplace")):
            failed.append((shown, "its name is no valid UTF-8; rename it"))
        elif state := _state(path):
            yield state


def _state(path: str) -> FileState | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None  # a link to nowhere, or a file that has just been deleted
    return FileState(path, facts.st_size, facts.st_mtime_ns)


def _digest(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
