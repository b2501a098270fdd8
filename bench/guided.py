"""``python -m bench.guided READER CORPUS SECONDS``: atheris looks for files that a reader stumbles over.

Run by ``bench/reliability.py``, one process a reader. Atheris sees which code a file reaches; files that reach more go
into the corpus and are spoiled further, of their bytes by libFuzzer and of their values by ``bench/fuzz.py``.
"""

import random
import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(
    include=["lmsearcher_local", "ruamel.yaml", "json", "optuna.storages.journal", "optuna.trial"]
):
    from bench import fuzz

MEMORY = 8 << 30  # address space; torch alone takes some of it


def main() -> None:
    """Look until the time is over, or until a file is neither read nor refused."""
    name, corpus, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    reader = fuzz.readers()[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(reader.valid):
        (corpus / f"valid-{i}").write_bytes(content)

    def mutate(content: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(content, size))
        return fuzz.spoil(content, rng)[:size]

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with TemporaryDirectory() as scratch:
        fuzz.prepare(reader, Path(scratch))
        options = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=300000", "-seed=1"]
        options += [f"-artifact_prefix={corpus}.", "-print_final_stats=1", str(corpus)]
        atheris.Setup(
            [sys.argv[0], *options], lambda content: fuzz.verdict(reader, content, Path(scratch)), custom_mutator=mutate
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
