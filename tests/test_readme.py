"""The README's Python and its commands run as they stand, from an empty folder with sounds and a model."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from hf_slap import bundled_sounds
from hf_slap.cli import main

README = Path(__file__).parents[1] / "README.md"
# Commands that do not run here, as regular expressions of their lines, and where they are run or why nowhere.
ELSEWHERE = {
    r"python3 -m venv .*": "the two commands for newcomers, in a fresh clone: .ci/run for the second, by hand for the first",
    r"pip install .*": "as above; the extras are those of pyproject.toml (below)",
    r"ruff check .*": "the second command for newcomers",
    r"python -m pytest": "the second command for newcomers",
    r"accelerate launch .*examples/pretrain(_supervised)?\.py .*": "minutes to weeks; tests/examples/test_pretrain.py",
    r"sbatch .*": "needs a cluster; tests/examples/test_pretrain.py reads its files",
    r"python examples/classify_and_caption\.py .*": "tests/examples/test_classify_and_caption.py",
    r"python examples/finetune_\w+\.py .*": "minutes each; tests/examples/test_finetune.py",
    r"python examples/prepare_corpus\.py .*": "needs downloads; tests/examples/test_prepare_corpus.py",
    r"python -m hf_slap\.evaluation .*|slap eval .*": "a minute of CPU time; tests/cli/test_work.py",
    r"slap export .*|slap push .*": "needs a run and a Hub; tests/hub/test_publishing.py",
    r"slap app .*": "serves until it is interrupted, or needs the Hub; tests/test_app.py",
    r"slap info org/slap": "needs the Hub; tests/cli/test_work.py reads a folder",
    r"slap train .*": "minutes; tests/cli/test_work.py checks what it starts",
    r"slap convert .*|slap \w+ .*--model clap(cap|-2023)": "needs weights of others; tests/conversion/test_convert_msclap.py",
    r"python -c .*hf_slap\.onnx.*|python examples/onnx_without_torch\.py .*": "tests/interop/test_onnx.py",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every command of the bash blocks, continued lines joined, comments left out."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+# .*", "", line).strip() for line in lines]
    return [re.sub(r"\s+", " ", line) for line in found if line]


@pytest.fixture
def folder(tiny_folder, tiny_processor, real_clips, tmp_path, monkeypatch):
    """The working folder of a reader of the README."""
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "model").symlink_to(tiny_folder)
    waves = [tiny_processor.feature_extractor.load(clip) for clip in real_clips]
    for name, wave in zip(("clip.wav", "other.flac"), waves, strict=False):
        for place in (tmp_path, tmp_path / "folder" / "of" / "sounds"):
            place.mkdir(parents=True, exist_ok=True)
            soundfile.write(place / name, wave, 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_python_block_runs(folder):
    found = blocks("python")
    names: dict = {}
    for block in found:
        exec(compile(block, str(README), "exec"), names)
    assert len(found) >= 2
    assert names["outputs"].logits_per_audio.shape == (2, 2)
    assert names["clip"].pooler_output.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert len(names["result"].dataset) == 2 and names["result"].failed == []


def test_every_command_runs_here_or_is_named_with_its_reason(folder, monkeypatch):
    home = folder / "home"
    for place in ("recordings", "home/sounds", "home/recordings"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(bundled_sounds()):
        shutil.copy(path, home / ("sounds" if number % 2 else "recordings"))
    shutil.copy(bundled_sounds()[0], folder / "recordings" / "a.opus")
    shutil.copy(folder / "clip.wav", folder / "walk.wav")
    shutil.copy(folder / "other.flac", folder / "night.flac")
    (folder / "classes.txt").write_text("a dog\na cow\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("hf_slap.search.index.DEFAULT_FOLDER", folder / "index")
    with_video = shutil.which("ffmpeg") is not None
    if with_video:
        picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=5"]
        subprocess.run(["ffmpeg", "-v", "error", *picture, "-i", "clip.wav", "-shortest", "film.mp4"], check=True)

    used, ran = set(), []
    for line in commands():
        reasons = [pattern for pattern in ELSEWHERE if re.fullmatch(pattern, line)]
        used |= set(reasons)
        if reasons or ("film.mp4" in line and not with_video):
            continue
        *before, command = line.split(" | ")
        words = [word.replace("~/", f"{home}/", 1) if word.startswith("~/") else word for word in shlex.split(command)]
        assert words[0] == "slap", f"{line!r} is neither run here nor named in ELSEWHERE"
        listed = (
            subprocess.run(before[0], shell=True, capture_output=True, text=True, check=True).stdout if before else ""
        )
        monkeypatch.setattr("sys.stdin", io.StringIO(listed))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(words[1:]) == 0, line
        ran.append((line, said.getvalue()))
    assert used == set(ELSEWHERE), f"no command of the README is {set(ELSEWHERE) - used}"
    said = dict(ran)
    assert len(said) >= 10
    assert "recordings/a.opus" in said['find . -name "*.opus" | slap info -']
    assert all((folder / name).is_file() for name in ("scores.csv", "walk.png", "walk.vtt", "vectors/embeddings.npy"))


def test_reasons_name_tests_that_are_there_and_extras_that_exist():
    named = [name for reason in ELSEWHERE.values() for name in re.findall(r"tests/\S+\.py|\.ci/run", reason)]
    assert named and all((README.parent / name).is_file() for name in named)
    metadata = (README.parent / "pyproject.toml").read_text()
    extras = {name for found in re.findall(r"\[([\w,-]+)\]\"", README.read_text()) for name in found.split(",")}
    assert extras and all(re.search(rf"^{re.escape(extra)} = \[", metadata, re.MULTILINE) for extra in extras)


def test_pictures_and_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README.read_text())
    assert "model_cards/architecture.svg" in targets
    assert [target for target in targets if not (README.parent / target).is_file()] == []
