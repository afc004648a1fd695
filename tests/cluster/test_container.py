"""The container file: copied files exist or are created, and pip installs the tested set."""

import re
import shlex
import tomllib
from pathlib import Path

from pip._internal.commands import create_command

import raycol
from tests.cluster import commands
from tests.cluster.documents import CLUSTER, CUSTOM, manifest, pod_templates
from tests.conftest import PROJECT

TEXT = (CLUSTER / "Containerfile").read_text()
KNOWN = {"FROM", "RUN", "ARG", "COPY", "USER", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, with continued lines joined and the version substituted."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in lines.splitlines() if line.strip()]
    return [(word, rest.replace("${VERSION}", raycol.__version__)) for word, rest in pairs]


def test_every_instruction_is_known() -> None:
    found = [word for word, _ in instructions()]
    assert set(found) == KNOWN
    assert found[0] == "FROM"
    # Kubernetes checks runAsNonRoot by uid.
    assert [rest for word, rest in instructions() if word == "USER"] == ["1000"]
    assert "useradd --uid 1000" in TEXT


def test_the_version_is_current() -> None:
    assert ("ARG", f"VERSION={raycol.__version__}") in instructions()
    for line in commands.in_comments(TEXT):
        assert all(tag == raycol.__version__ for tag in re.findall(r"--tag \S+:(\S+)", line))
    (tag,) = re.findall(r"--tag (\S+)", TEXT)
    images = {
        template["spec"]["containers"][0]["image"] for kind in CUSTOM for template in pod_templates(manifest(kind))
    }
    assert images == {tag}


def test_copied_files_exist_or_are_the_wheel_of_the_first_command() -> None:
    (copied,) = [rest.split() for word, rest in instructions() if word == "COPY"]
    *sources, _ = copied
    wheel = f"dist/raycol-{raycol.__version__}-py3-none-any.whl"
    assert wheel in sources
    assert all((PROJECT / source).is_file() for source in sources if source != wheel)
    (made, built) = commands.in_comments(TEXT)
    assert "wheel --no-deps --wheel-dir dist ." in made
    assert built.endswith(" .")


def test_pip_installs_the_wheel_with_known_extras_and_the_constraints() -> None:
    (run,) = [rest for word, rest in instructions() if word == "RUN" and rest.startswith("pip ")]
    install, remove = [part.strip() for part in run.split("&&")]
    folder = next(rest for word, rest in instructions() if word == "COPY").split()[-1]
    assert remove == f"rm -r {folder.rstrip('/')}"
    _, verb, *arguments = shlex.split(install)
    options, wanted = create_command(verb).parser.parse_args(arguments)
    # The machine's pip configuration may add other options before it.
    assert options.constraints[-1] == f"{folder}constraints.txt"
    wheel, default = wanted
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    path, extra = re.fullmatch(r"(.*)\[(\w+)\]", wheel).groups()
    assert Path(path).parent == Path(folder)
    assert extra in extras
    assert default == "ray[default]"


def test_raycol_supports_the_python_version() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    version = tuple(map(int, re.search(r"python:(\d+)\.(\d+)-", base).groups()))
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert version >= tuple(map(int, needed.removeprefix(">=").split(".")))
