"""The image, as far as it can be made without a daemon: its steps run as they stand in the file."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests.docker.image import DOCKERFILE, ROOT, Instruction, context, stages

TARGETS = ("cpu", "gpu")
BIN = Path(sys.executable).parent


def _of(stage: str, name: str) -> list[Instruction]:
    return [instruction for instruction in stages()[stage] if instruction.name == name]


def test_hadolint_finds_nothing():
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path):
    worse = tmp_path / "Dockerfile"
    worse.write_text(DOCKERFILE.read_text().replace("WORKDIR /crucible", "WORKDIR crucible"))
    done = subprocess.run([BIN / "hadolint", worse], capture_output=True, text=True)
    assert "DL3000" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_both_images_install_with_the_one_script_and_their_lock(target):
    installs = [i.text for i in _of(target, "RUN") if "install.sh" in i.text]
    assert len(installs) == 2
    for text in installs:
        assert text.endswith(f"requirements/install.sh {target}")
    assert (ROOT / "requirements" / f"{target}.txt").is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_ends_as_a_numbered_user_who_is_not_root(target):
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", _of(target, "USER")[-1].text)
    assert stages()[target][-1].name == "USER"


@pytest.mark.parametrize("target", TARGETS)
def test_the_packages_lie_in_a_layer_that_a_change_of_the_code_leaves_alone(target):
    instructions = [i for i in stages()[target] if i.name in ("COPY", "RUN")]
    whole = next(n for n, i in enumerate(instructions) if i.text == ". .")
    assert instructions[whole - 1].text.endswith(f"install.sh {target}")
    assert instructions[whole - 2].text == "requirements/ requirements/"


def test_the_sandbox_and_a_compiler_are_inside_and_apt_leaves_nothing():
    (apt,) = [i.text for i in _of("base", "RUN") if "apt-get" in i.text]
    assert {"bubblewrap", "g++", "wget"} <= set(apt.split())
    assert "--no-install-recommends" in apt
    assert "rm -rf /var/lib/apt/lists/*" in apt


def test_the_context_holds_what_runs_and_nothing_else():
    sent = context()
    tops = {path.parts[0] for path in sent}
    packages = {"fusion", "cluster", "services", "jobs", "recipes", "rehearsal", "requirements"}
    assert tops == packages | {"LICENSE", "README.md", "pyproject.toml"}
    assert not [path for path in sent if "__pycache__" in path.parts or "kuberay" in path.parts]
    assert sum((ROOT / path).stat().st_size for path in sent) < 32 << 20


def _installed_venv(folder: Path) -> None:
    """A virtual environment that the install script takes for one with the packages in it.

    The packages are those of the environment that runs the tests; what they cost, minutes and
    gigabytes, is the only part of the image's steps that is left out here.
    """
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "bin" / "uv").symlink_to(BIN / "uv")
    script = (ROOT / "requirements" / "install.sh").read_text()
    (version,) = re.findall(r"^UV_VERSION=(\S+)$", script, re.MULTILINE)
    lock = (ROOT / "requirements" / "cpu.txt").read_bytes()
    stamp = hashlib.sha256(lock + f"{version}\n".encode()).hexdigest()
    (folder / ".crucible-packages").write_text(f"{stamp}\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The image's folder after its last step, from the files of the context alone.

    The packages' step finds `requirements/` and nothing else, the last one all.
    """
    folder = tmp_path_factory.mktemp("image") / "crucible"
    packages, last = _of("cpu", "RUN")[-2:]
    sent = context()
    _copy([path for path in sent if path.parts[0] == "requirements"], folder)
    _installed_venv(folder / ".venv")
    _run_step(packages, folder)
    assert not (folder / ".venv" / ".crucible-project").exists()
    _copy(sent, folder)
    _run_step(last, folder)
    return folder


def _copy(paths: list[PurePosixPath], folder: Path) -> None:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)


def _run_step(step: Instruction, folder: Path) -> None:
    command = re.sub(r"^--mount=\S+ ", "", step.text)  # BuildKit's, not the shell's
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=_environment(folder),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(folder: Path) -> dict[str, str]:
    """The variables that the Dockerfile sets, on top of what a bare container has."""
    variables = dict(re.findall(r"(\w+)=(\S+)", _of("cpu", "ENV")[0].text))
    path = variables["PATH"].replace("/crucible/", f"{folder}/")
    return {
        "HOME": os.environ["HOME"],
        **variables,
        "PATH": path.replace("$PATH", os.environ["PATH"]),
    }


def test_the_entry_point_and_its_default_argument_run(built):
    command = [*_of("cpu", "ENTRYPOINT")[0].words, *_of("cpu", "CMD")[0].words]
    found = shutil.which(command[0], path=_environment(built)["PATH"])
    assert found == str(built / ".venv" / "bin" / "crucible")
    done = subprocess.run(
        command,
        executable=found,
        cwd=built,
        capture_output=True,
        text=True,
        env=_environment(built),
    )
    assert done.returncode == 0, done.stderr
    assert "Fuse several large language models" in done.stdout


def test_the_rehearsal_and_the_published_recipes_of_the_image_are_valid(built):
    recipes = ["rehearsal/recipe.yaml", "recipes/fusechat-3.0/llama-3.1-8b.yaml"]
    code = "import sys; from fusion.recipe_file import load_recipe; from pathlib import Path\n"
    code += "import fusion; print(fusion.__file__)\n[load_recipe(Path(p)) for p in sys.argv[1:]]"
    done = subprocess.run(
        ["python", "-c", code, *recipes],
        executable=str(built / ".venv" / "bin" / "python"),
        cwd=built,
        capture_output=True,
        text=True,
        env=_environment(built),
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(built)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "cpu, or gpu|cpu|gpu"),
        (["tpu"], 2, "unknown argument 'tpu'"),
        (["--venv"], 2, "needs the folder"),
    ],
)
def test_the_install_script_of_the_context_says_what_it_takes(built, arguments, code, words):
    script = [built / "requirements" / "install.sh", *arguments]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == code
    assert any(word in done.stdout + done.stderr for word in words.split("|"))


def test_compose_builds_the_targets_and_runs_commands_that_exist():
    from jobs.__main__ import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    folder = DOCKERFILE.parent
    cpu = yaml.safe_load((folder / "compose.yaml").read_text())
    gpu = yaml.safe_load((folder / "compose.gpu.yaml").read_text())
    assert set(cpu["services"]) == set(gpu["services"])
    for name, service in cpu["services"].items():
        assert service["command"][0] in commands
        assert (folder / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
            DOCKERFILE
        )
        targets = {service["build"]["target"], gpu["services"][name]["build"]["target"]}
        assert targets == set(TARGETS) <= set(stages())
        mounted = {volume.rpartition(":")[0] for volume in service["volumes"]}
        assert {re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume) for volume in mounted} <= set(
            cpu["volumes"]
        )
        assert service["cap_drop"] == ["ALL"]
        assert "privileged" not in service


def test_compose_publishes_nothing_beyond_this_machine():
    services = yaml.safe_load((DOCKERFILE.parent / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert not service.get("ports")
    recipe = yaml.safe_load((ROOT / "rehearsal" / "recipe.yaml").read_text())
    assert recipe.get("endpoint", {}).get("host", "127.0.0.1") == "127.0.0.1"
