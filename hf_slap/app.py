"""A page in the browser: drop or record a sound, and see which labels fit, a caption, a timeline and similar sounds.

It sends nothing anywhere: the model runs on this machine, and gradio's telemetry is off.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .listening import Listener
from .modeling.audio_slap import AudioError
from .shipped import bundled_sounds
from .timeline import THRESHOLD, Timeline, cut, timeline

if TYPE_CHECKING:
    from gradio import Blocks

    from .search import Match, SoundIndex

LABELS = "speech, music, a dog, a bird, footsteps, a door, running water, an engine"
SIMILAR = 4  # sounds of the index that are shown
MOST_UPLOADED = "1gb"
KEPT_SECONDS = 3600  # how long uploads stay on the disk
_WORDS, _WHEN = "a caption for each part", "where each label is heard"
_STYLE = """
.gradio-container { max-width: 1240px !important; width: 100% !important; margin: 0 auto !important }
#timeline img { background: white; border-radius: 8px }
"""


class Answers:
    """What the page shows, as functions of what it is given. Sounds are paths; errors are those of the functions used.

    Args:
        listener: the model.
        index: in which similar sounds are looked for; made by the same model.
    """

    def __init__(self, listener: Listener, index: "SoundIndex | None" = None):
        self.listener, self.index = listener, index

    def scores(self, sound: str, labels: str, several: bool) -> dict[str, float]:
        """{label: score}."""
        ranked = self.listener.classify(sound, label_names(labels), multi_label=several)
        return {one["label"]: one["score"] for one in ranked}

    def caption(self, sound: str) -> str:
        """One caption, or a line for each 30 s."""
        captions = self.listener.caption(sound)
        if len(captions) == 1:
            return captions[0].text
        return "\n".join(f"{_clock(one.start)} to {_clock(one.end)}: {one.text}" for one in captions)

    def timeline(self, sound: str, labels: str | None, several: bool, threshold: float, progress: Any) -> Timeline:
        """Of labels, or of captions when they are None."""
        names = None if labels is None else label_names(labels)
        settings = {"multi_label": several, "threshold": threshold, "progress": progress}
        return timeline(self.listener, None, sound, names, name=Path(sound).name, **settings)

    def similar(self, sound: str | None = None, text: str | None = None) -> list[tuple[str, tuple[int, np.ndarray]]]:
        """What is found in the index, best first: what it is, and (rate, (n,) int16) of that stretch."""
        found = []
        for match in self.index.search(text=text, audio=sound, k=SIMILAR):
            try:
                stretch = read_stretch(match, self.listener)
            except (AudioError, OSError):  # the file is gone since it was indexed
                continue
            where = f"{_clock(match.start)} to {_clock(match.end)}"
            found.append((f"{Path(match.path).name} · {where} · {match.score:.2f}", stretch))
        return found


def label_names(text: str) -> list[str]:
    """Labels from a text with commas or lines between them, each once.

    Raises:
        ValueError: there is none.
    """
    names = list(dict.fromkeys(part.strip() for part in (text or "").replace("\n", ",").split(",") if part.strip()))
    if not names:
        raise ValueError("Type some labels, with commas between them.")
    return names


def read_stretch(match: "Match", listener: Listener) -> tuple[int, np.ndarray]:
    """Rate and (n,) int16 of a stretch of a file, mono."""
    import soundfile

    try:
        rate = soundfile.info(match.path).samplerate
        start, stop = round(match.start * rate), round(match.end * rate)
        wave = soundfile.read(match.path, stop - start, start, dtype="float32", always_2d=True)[0].mean(1)
    except soundfile.LibsndfileError:  # a video, say
        rate = listener.processor.feature_extractor.sampling_rate
        blocks = listener.processor.feature_extractor.stream(match.path)
        wave = next(cut(blocks, [(round(match.start * rate), round(match.end * rate))]), np.zeros(0, np.float32))
    return rate, (np.clip(wave, -1, 1) * 32767).astype(np.int16)


def build_page(
    model: Any = None, processor: Any = None, index: "SoundIndex | None" = None, name: str | None = None
) -> "Blocks":
    """The page; `serve` shows it.

    Args:
        model, processor: as for `Listener`; None: the model that comes with this package.
        index: of `hf_slap.search`, made by the same model; None: without similar sounds.
        name: what the page calls the model; default: that of its folder.
    Raises:
        ImportError: gradio is not installed.
    """
    gradio = _gradio()
    listener = model if isinstance(model, Listener) else Listener(model, processor)
    answers = Answers(listener, index)

    @contextmanager
    def told(sound: str | None = None) -> Iterator[None]:
        """Errors that a user can mend are shown to them."""
        try:
            yield
        except (ValueError, OSError, ImportError) as error:  # AudioError is a ValueError
            text = str(error) or type(error).__name__
            folder = f"{os.path.dirname(sound)}{os.sep}" if sound else ""
            raise gradio.Error(text.replace(folder, "") if folder else text, print_exception=False) from error

    def scores(sound, labels, several):
        if sound:
            with told(sound):
                return answers.scores(sound, labels, several)

    def caption(sound):
        if sound:
            with told(sound):
                return answers.caption(sound)

    def when(sound, labels, several, threshold, kind, progress=gradio.Progress()):  # noqa: B008 - gradio's way
        if not sound:
            yield None, [], None
            return

        def tell(what: str, seconds: float) -> None:
            progress((int(seconds), None), desc=what, unit="s")

        with told(sound), tempfile.TemporaryDirectory() as folder:
            found = answers.timeline(sound, labels if kind == _WHEN else None, several, threshold, tell)
            stem = Path(folder) / Path(sound).stem
            files = [str(found.save(stem.with_suffix(suffix))) for suffix in (".png", ".vtt", ".txt", ".json", ".csv")]
            rows = [
                [_clock(one.start), _clock(one.end), one.label, "" if one.score is None else f"{one.score:.2f}"]
                for one in found.segments
            ]
            yield files[0], rows, files  # gradio copies the files before it asks for more

    def players(found):
        shown = [gradio.Audio(value=sound, label=label, visible=True) for label, sound in found]
        return shown + [gradio.Audio(value=None, visible=False)] * (SIMILAR - len(shown))

    def similar(sound):
        with told(sound):
            return players(answers.similar(sound=sound) if sound else [])

    def search(text):
        with told():
            return players(answers.similar(text=text))

    # `analytics_enabled` and the variable that `_gradio` sets keep gradio from calling home; its own buttons would
    # share sounds on the Hub
    with gradio.Blocks(title="SLAP", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gradio.Markdown(
            "# What is in this sound?\nDrop a recording of any length, or record one. "
            f"The model `{name or Path(listener.place).name}` listens on the machine that serves this page."
        )
        with gradio.Row():
            with gradio.Column(scale=5, min_width=340):
                sound = gradio.Audio(
                    type="filepath", sources=["upload", "microphone"], label="Sound", elem_id="sound",
                    waveform_options={"show_recording_waveform": True}, buttons=[],
                )  # fmt: skip
                labels = gradio.Textbox(LABELS, label="Labels, with commas between them", lines=2, elem_id="labels")
                several = gradio.Checkbox(
                    False, label="Several may fit: judge each by itself, against everyday sounds", elem_id="several"
                )
                listen = gradio.Button("Listen", variant="primary", elem_id="listen")
            with gradio.Column(scale=6, min_width=340):
                bars = gradio.Label(label="Which label fits", num_top_classes=8, elem_id="scores")
                words = gradio.Textbox(label="Caption", lines=2, interactive=False, elem_id="caption")
        if examples := bundled_sounds():
            gradio.Examples(
                [[path] for path in examples],
                [sound],
                label="Sounds to try",
                example_labels=[Path(path).stem for path in examples],
            )
        with gradio.Row():
            kind = gradio.Radio([_WHEN, _WORDS], value=_WHEN, label="Timeline", elem_id="kind")
            threshold = gradio.Slider(
                0.05, 0.95, THRESHOLD, step=0.05, label="Score from which a label counts as heard"
            )
        picture = gradio.Image(
            label="Timeline", show_label=False, interactive=False, elem_id="timeline", buttons=["fullscreen"]
        )
        with gradio.Accordion("As a table, and as files for Audacity and players", open=False):
            table = gradio.Dataframe(headers=["from", "to", "what", "score"], interactive=False, elem_id="segments")
            files = gradio.File(label="Picture, WebVTT, Audacity labels, JSON, CSV", interactive=False)
        steps = [
            (scores, [sound, labels, several], [bars], "classify"),
            (caption, [sound], [words], "caption"),
            (when, [sound, labels, several, threshold, kind], [picture, table, files], "timeline"),
        ]
        if index is not None:
            gradio.Markdown("## In the library")
            query = gradio.Textbox(
                label="Search it by words; below is what is most like the sound above", elem_id="query"
            )
            with gradio.Row():
                found = [
                    gradio.Audio(visible=False, interactive=False, min_width=250, buttons=[]) for _ in range(SIMILAR)
                ]
            query.submit(search, [query], found, api_name="search")
            steps.append((similar, [sound], found, "similar"))
        heard = gradio.on(
            [listen.click, labels.submit, sound.change, several.input], *steps[0][:3],
            api_name="classify", trigger_mode="always_last",
        )  # fmt: skip
        for function, inputs, outputs, name in steps[1:]:
            heard = heard.success(function, inputs, outputs, api_name=name)
        gradio.on([kind.input, threshold.release], *steps[2][:3], api_name=False)
    return page


def serve(
    page: "Blocks", host: str | None = None, port: int | None = None, *, open_browser: bool = False, wait: bool = True
) -> str:
    """Serves a page, until it is interrupted.

    Args:
        host, port: default: `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`, else 127.0.0.1 and the first free one from
            7860 on.
        wait: False: return at once; `page.close()` ends it.
    Returns:
        the address.
    """
    gradio = _gradio()
    _, address, _ = page.launch(
        server_name=host, server_port=port, inbrowser=open_browser, prevent_thread_lock=True, quiet=True, share=False,
        ssr_mode=False, footer_links=["api"], max_file_size=MOST_UPLOADED, css=_STYLE,
        theme=gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip
    if wait:
        print(f"the page is at {address}, until you press Ctrl+C", flush=True)
        page.block_thread()
    return address


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio starts
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs gradio: pip install "hf_slap[app]"') from error
    return gradio


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
