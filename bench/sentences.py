"""Prints the ten longest sentences of README.md and ARCHITECTURE.md: ``python -m bench.sentences``."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
COUNT = 10


def sentences(text: str) -> list[str]:
    """Those of Markdown's paragraphs, items of lists and cells of tables, without its blocks of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |#|\|))|(?<=[.!?:;])\s+|\|", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


def main() -> None:
    """Print them, longest first, with their words."""
    found = [
        (len(sentence.split()), name, sentence)
        for name in ("README.md", "ARCHITECTURE.md")
        for sentence in sentences((ROOT / name).read_text())
    ]
    for words, name, sentence in sorted(found, reverse=True)[:COUNT]:
        print(f"{words:3} words, {name}: {sentence}")


if __name__ == "__main__":
    main()
