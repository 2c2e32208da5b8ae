"""Fresh interpreters, with and without this package."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hf_slap import use_folder


@pytest.fixture(scope="session")
def clip_files(real_clips, tmp_path_factory) -> list[str]:
    """Three real clips as files."""
    folder = tmp_path_factory.mktemp("clips")
    for number, clip in enumerate(real_clips[:3]):
        (folder / f"{number}.ogg").write_bytes(clip["bytes"])
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="session")
def run_python():
    """run_python(arguments, environment={}) runs a new interpreter and returns what it printed."""

    def run(arguments: list[str], environment: dict[str, str] | None = None) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-5000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def use_slap(run_python, clip_files):
    """use_slap(model, with_package, environment) runs hf_slap's use_folder.py on `clip_files`; see there."""

    def run(model: str | Path, with_package: bool, environment: dict[str, str]) -> dict:
        arguments = [use_folder.__file__, model, *clip_files]
        if not with_package:
            paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
            arguments = ["-I", "-S", *arguments, "--without-package", *paths]
        return json.loads(run_python(arguments, environment).splitlines()[-1])

    return run
