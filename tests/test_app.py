"""The page in a real browser: what a visitor drops, types, records and gets, and where the page connects to."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

pytest.importorskip("gradio")
sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright

from hf_slap import bundled_sounds  # noqa: E402
from hf_slap.app import Answers, build_page, serve  # noqa: E402
from hf_slap.listening import Listener  # noqa: E402
from hf_slap.search import SoundIndex  # noqa: E402
from hf_slap.space import make_space  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOUNDS = {Path(path).stem: path for path in bundled_sounds()}
LONG = 60_000  # milliseconds: shared machines are slow


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def index(listener, tmp_path_factory) -> SoundIndex:
    folder = tmp_path_factory.mktemp("library")
    for name in ("cow", "sheep", "stream", "fire", "drum"):
        shutil.copy(SOUNDS[name], folder)
    with SoundIndex(folder / "index", listener.model, listener.processor) as library:
        library.update([folder])
        yield library


@pytest.fixture(scope="module")
def connections() -> set[str]:
    """Addresses outside this machine that this process looks up or connects to from now on."""
    return set()


@pytest.fixture(scope="module")
def address(listener, index, connections):
    """Of the page, served by this process, whose connections are watched."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def watched_connect(self, place):
        if isinstance(place, tuple) and not place[0].startswith(("127.", "localhost", "::1")):
            connections.add(place[0])
        return connect(self, place)

    def watched_look_up(host, *rest, **more):
        if host not in (None, "127.0.0.1", "localhost", "::1", "0.0.0.0"):
            connections.add(str(host))
        return look_up(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watched_connect)
        patch.setattr(socket, "getaddrinfo", watched_look_up)
        page = build_page(listener, index=index)
        yield serve(page, wait=False)
        page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, whose microphone hears the bundled cow."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    cow, rate = soundfile.read(SOUNDS["cow"])
    heard = tmp_path_factory.mktemp("microphone") / "cow.wav"
    soundfile.write(heard, cow, rate)
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
             f"--use-file-for-fake-audio-capture={heard}"]  # fmt: skip
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address, tmp_path):
    """The page in a window of its own; its picture at the end lies in `tmp_path`. No request may leave this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 1500}, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(LONG)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#sound input[type=file]").wait_for(state="attached")
    yield page
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def best(page) -> str:
    """The label that the page shows in large letters, when there is one."""
    place = page.locator("#scores h2, #scores .output-class").first
    place.wait_for()
    return place.inner_text().strip()


def drop(page, path: str) -> None:
    page.locator("#sound input[type=file]").set_input_files(path)


def test_a_dropped_sound_is_classified_captioned_drawn_and_likened(visit, listener, index, tmp_path):
    labels = ["a dog", "a sheep", "running water"]
    visit.locator("#labels textarea").fill(", ".join(labels))
    drop(visit, SOUNDS["sheep"])
    expected, caption = listener.classify(SOUNDS["sheep"], labels), listener.caption(SOUNDS["sheep"])[0].text
    assert best(visit) == expected[0]["label"] == "a sheep"
    assert f"{round(100 * expected[0]['score'])}%" in visit.locator("#scores").inner_text()
    visit.wait_for_function("text => document.querySelector('#caption textarea').value === text", arg=caption)
    visit.locator("#timeline img").wait_for()
    assert visit.evaluate("document.querySelector('#timeline img').naturalWidth") > 1000
    visit.get_by_text("sheep.ogg · 0:00.0 to").wait_for()  # the library holds the very sound, with a cosine of 1
    assert visit.get_by_text("· 1.00").count() == 1
    visit.screenshot(path=tmp_path / "sheep.png", full_page=True)

    visit.locator("#labels textarea").fill("a guitar, an engine")
    visit.locator("#listen").click()
    visit.wait_for_function("document.querySelector('#scores').innerText.includes('an engine')")
    visit.get_by_text("a caption for each part").click()
    visit.get_by_text("As a table, and as files").click()
    visit.locator("#segments").get_by_text(caption).locator("visible=true").first.wait_for()

    visit.locator("#query textarea, #query input").fill("running water")
    visit.keyboard.press("Enter")
    first = index.search(text="running water", k=1)[0]
    visit.get_by_text(f"{Path(first.path).name} · 0:0{first.start:.1f} to").first.wait_for()


def test_errors_say_what_to_do_and_show_no_path_of_the_server(visit, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF and no sound")
    drop(visit, str(broken))
    message = visit.locator(".toast-body, .toast-wrap").first
    message.wait_for()
    assert "'broken.wav' is not audio that can be read" in message.inner_text()
    assert "/gradio/" not in message.inner_text() and "/tmp" not in message.inner_text()

    visit.locator("#labels textarea").fill(" , ")
    visit.locator("#listen").click()
    visit.get_by_text("Type some labels, with commas between them.").first.wait_for()


def test_a_recording_is_heard(visit):
    visit.locator("#labels textarea").fill("a cow, running water, a guitar")
    visit.get_by_label("Record audio").or_(visit.locator("#sound button[aria-label*=icrophone]")).first.click()
    visit.get_by_role("button", name="Record", exact=True).click()
    visit.wait_for_timeout(2500)
    visit.get_by_role("button", name="Stop", exact=True).click()
    assert best(visit) == "a cow"


def test_the_page_connects_to_nobody(visit, connections):
    assert connections == set()


def test_long_recordings_have_a_line_of_caption_for_each_piece(listener, tmp_path):
    water, rate = soundfile.read(SOUNDS["stream"])
    soundfile.write(tmp_path / "long.wav", np.resize(water, 8 * rate), rate)  # slap-nano hears 5 s at once
    first, second = Answers(listener).caption(str(tmp_path / "long.wav")).splitlines()
    assert first.startswith("0:00.0 to 0:05.0: ") and second.startswith("0:05.0 to 0:08.0: ")


SPACE = """
import runpy, hf_slap
from pathlib import Path
assert Path(hf_slap.__file__).is_relative_to(Path.cwd()), hf_slap.__file__
runpy.run_path("app.py", run_name="__main__")
"""


def test_a_space_runs_from_its_folder_alone_without_a_network(tiny_folder, tmp_path):
    folder = tmp_path / "space"
    make_space(folder, str(tiny_folder), title="My sounds")
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert {"sdk": "gradio", "app_file": "app.py", "title": "My sounds"}.items() <= header.items()
    needed = (folder / "requirements.txt").read_text().split()
    assert any(line.startswith("torch>=") for line in needed) and not any("gradio" in line for line in needed)
    with pytest.raises(ValueError, match="is not empty"):
        make_space(folder)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "GRADIO_SERVER_PORT": address.rpartition(":")[2], "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "said", "w+") as said:
        running = subprocess.Popen([sys.executable, "-c", SPACE], cwd=folder, env=environment, stdout=said, stderr=said)
        try:
            page = ""
            while not page:
                assert running.poll() is None, said.seek(0) or said.read()
                try:
                    page = urllib.request.urlopen(address, timeout=30).read().decode()
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    assert "The model `My sounds` listens" in page


def test_a_space_names_a_model_of_the_hub_or_has_the_one_that_ships(tmp_path):
    make_space(tmp_path / "named", "org/slap")
    make_space(tmp_path / "nano")
    assert "build_page('org/slap')" in (tmp_path / "named" / "app.py").read_text()
    assert "models:\n- org/slap\n" in (tmp_path / "named" / "README.md").read_text()
    assert not (tmp_path / "named" / "hf_slap" / "bundled" / "slap-nano").exists()
    assert "build_page(None)" in (tmp_path / "nano" / "app.py").read_text()
    assert (tmp_path / "nano" / "hf_slap" / "bundled" / "slap-nano" / "model.safetensors").is_file()
    assert not list((tmp_path / "nano").rglob("__pycache__"))
