"""What is built, imported and listed is what lies in the folders."""

import ast
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import hf_slap

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MODELING = sorted(path for path in (ROOT / "modeling").glob("*.py") if path.name != "__init__.py")
PUBLIC = """SlapConfig SlapAudioConfig SlapDecoderConfig SlapModel SlapAudioModel SlapForPreTraining
    SlapForAudioCaptioning SlapForAudioClassification SlapFeatureExtractor SlapProcessor""".split()

# Runs without this project on sys.path, except as the wheel in sys.argv[1].
IMPORT_FROM_WHEEL = """
import json, sys

sys.path = [*sys.path, *sys.argv[1:]]
forbidden = []

def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in ("socket.connect", "socket.getaddrinfo") or (writes and arguments[0] != "/dev/null"):
        forbidden.append(f"{event} {arguments}")

sys.dont_write_bytecode = True
sys.addaudithook(watch)
from transformers import AutoModel, AutoProcessor, GenerationMixin, Pipeline, PreTrainedModel, ProcessorMixin
from transformers import SequenceFeatureExtractor

before = set(sys.modules)
import hf_slap

added = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps({"file": hf_slap.__file__, "added": sorted(added), "forbidden": forbidden}))
"""


def source_files() -> list[Path]:
    """Every file of the checkout that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the sdist, built offline from a copy of the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for path in source_files():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copy / path)
    build = "from setuptools import build_meta as b; print(b.build_sdist('dist')); print(b.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sdist, wheel = [copy / "dist" / line for line in done.stdout.splitlines() if line.endswith((".tar.gz", ".whl"))]
    return wheel, sdist


def installed_name(path: Path) -> str | None:
    """Where a source file lies in the installed package; None for those that are not installed."""
    script = path.parent == Path("examples") and path.suffix == ".py"
    if path.parts[0] == "modeling" or script or path.parts[:2] == ("examples", "configs"):
        return f"hf_slap/{path.as_posix()}"
    return path.as_posix() if path.parts[0] == "hf_slap" else None


def test_the_wheel_holds_every_file_of_the_package_and_no_other(distributions):
    names = {name for name in zipfile.ZipFile(distributions[0]).namelist() if ".dist-info/" not in name}
    assert names == {name for path in source_files() if (name := installed_name(path))}


def test_the_sdist_holds_all_that_a_wheel_is_built_from(distributions):
    with tarfile.open(distributions[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {path.as_posix() for path in source_files() if installed_name(path)}
    assert needed | {"pyproject.toml", "LICENSE", "README.md"} <= names


def test_importing_the_wheel_loads_transformers_and_ourselves_and_touches_nothing(distributions, tmp_path):
    zipfile.ZipFile(distributions[0]).extractall(tmp_path)
    paths = [tmp_path, *sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})]
    command = [sys.executable, "-I", "-S", "-c", IMPORT_FROM_WHEEL, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert Path(seen["file"]).is_relative_to(tmp_path)
    assert set(seen["added"]) <= {"hf_slap", "transformers"}
    assert seen["forbidden"] == []


def test_packages_in_pyproject_are_the_folders_with_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in source_files() if path.suffix == ".py" and installed_name(path)}
    assert sorted(listed) == sorted(installed_name(folder / "x.py")[:-5].replace("/", ".") for folder in folders)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_come_from_hf_slap(name):
    assert name in hf_slap.__all__
    assert getattr(hf_slap, name) is getattr(hf_slap.modeling, name)
    assert getattr(hf_slap, name).__module__.startswith("hf_slap.modeling.")


def test_modeling_is_not_imported_a_second_time_under_its_own_name():
    command = [sys.executable, "-c", "import modeling"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "write `import hf_slap.modeling`" in done.stderr


@pytest.mark.parametrize("path", MODELING, ids=lambda path: path.name)
def test_code_beside_the_weights_imports_only_files_beside_it(path):
    neighbours = {neighbour.stem for neighbour in MODELING}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in neighbours, f"line {node.lineno}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(module.split(".")[0] == "hf_slap" for module in modules), f"line {node.lineno}"
            assert "__future__" not in modules, f"line {node.lineno}: configuration classes would become strings"
    # transformers finds the files to copy by this pattern, in comments and docstrings too
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(), re.MULTILINE)
    assert set(found) <= neighbours


def test_the_readme_lists_every_file():
    readme = (ROOT / "README.md").read_text()
    layout = re.search(r"^## Layout$(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert layout, "README.md has no section '## Layout'"
    listed = set(re.findall(r"[\w.-]+", layout[1]))
    files = {path.name for path in source_files() if path.name != "__init__.py" and path.name != "README.md"}
    assert sorted(files - listed) == []
    gone = {name for name in listed if name.endswith((".py", ".yaml", ".parquet", ".toml", ".md"))} - files
    assert sorted(gone - {"__init__.py", "README.md"}) == []
