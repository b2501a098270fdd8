"""A command with placeholders for the options of a configuration.

Options may come from another person's file, so no shell ever reads one as part of a command: it gets them as variables,
assigned in front of the command, and a placeholder becomes a quoted expansion. Where words stand that is one word.
Inside quotes and in other places it would be something else, and is refused.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from lmsearcher_local.errors import ObjectiveError
from lmsearcher_local.spaces.space import Option

WORDS = "("  # where words stand: the command itself, in parentheses, in a command substitution
PLACES = {
    "'": "inside single quotes",
    '"': "inside double quotes",
    "`": "inside backticks",
    "${": "inside ${...}",
    "((": "inside arithmetic",
    "#": "inside a comment",
    "\\": "behind a backslash",
    "$'": "behind $'...' or a quote within ${...}",
    "$[": "behind $[",
    "[[": "behind [[",
    "<<": "behind <<",
    "case": "behind a case within quotes",
}
EXPANSIONS = {"$(": WORDS, "$((": "((", "${": "${", "`": "`"}
OPENED: dict[str, dict[str, str]] = {  # by which token, in which place, which place begins; in others none does
    WORDS: EXPANSIONS
    | {"(": WORDS, "((": "((", "'": "'", '"': '"', "#": "#"}
    | {endless: endless for endless in ("$'", "$[", "[[", "<<", "case")},  # shells differ in what comes then
    '"': EXPANSIONS,
    "${": EXPANSIONS | {'"': '"', "'": "$'"},
    "((": EXPANSIONS | {"(": "((", '"': '"', "'": "$'"},
}
CLOSED = {WORDS: ")", "((": ")", "${": "}", "'": "'", '"': '"', "`": "`", "#": "\n"}
TOKEN = re.compile(r"\\.|\$\(\(|\(\(|\$\(|\$\{|\$'|\$\[|<<|\[\[|\bcase\b|.", re.DOTALL)
CHARACTER = re.compile(".", re.DOTALL)


class Template:
    """A command for a shell, or a JSON list of a program and its arguments, which no shell reads.

    ``{name}`` is the option of that parameter. Of one that is inactive it is an empty word; in a JSON list, a word that
    has it is left out. Other braces stay as they are; ``{{name}}`` writes ``{name}``.

    Raises:
        ObjectiveError: the command is empty or malformed, names what is not in ``names``, or has a placeholder where an
            option could be taken for something else.
    """

    def __init__(self, text: str, names: Sequence[str]) -> None:
        if not text.strip():
            raise ObjectiveError("the objective command is empty")
        braces, words = _braces(names), _parse_list(text)
        self._words = [[*_split(word, braces, names, shell=False)] for word in words]
        self._shell = [] if words else [*_split(text, braces, names, shell=True)]

    def command(self, values: Mapping[str, Option]) -> str | list[str]:
        """The command for these options: a shell's text, or a program and its arguments."""
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        if self._words:
            words = [word for word in self._words if all(not name or name in texts for _, name in word)]
            return ["".join(texts[name] if name else text for text, name in word) for word in words]
        used = sorted({name for _, name in self._shell if name})
        variables = {name: f"lmsearcher_{i}" for i, name in enumerate(used)}
        given = "".join(f"{variables[name]}={shlex.quote(texts.get(name, ''))}; " for name in used)
        return given + "".join(f'"${{{variables[name]}}}"' if name else text for text, name in self._shell)


def _parse_list(text: str) -> list[str]:
    """The words of a command that is written as a JSON list; none where it is a shell's."""
    if not re.match(r'\s*\[\s*"', text):
        return []
    try:
        words = json.loads(text)
    except ValueError as error:
        raise ObjectiveError(f"the command begins like a JSON list and is none: {error}") from error
    if not all(isinstance(word, str) for word in words):
        raise ObjectiveError("a command that is a JSON list holds text only: a program and its arguments")
    return list(words)


def _braces(names: Sequence[str]) -> re.Pattern[str]:
    """Finds ``{{name}}``, its name as group 1, and ``{name}``, as group 2: known names, and whatever looks like one."""
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    signs = "".join(map(re.escape, sorted({c for name in names for c in name if not c.isalnum() and c not in "{}"})))
    name = rf"({known}|[^\W\d][\w.\-{signs}]*)"
    return re.compile(rf"(?<!\$)(?:\{{\{{{name}\}}\}}|\{{{name}\}})")


def _split(text: str, braces: re.Pattern[str], names: Sequence[str], shell: bool) -> Iterator[tuple[str, str]]:
    """Pairs of a text that stays and an empty name, or of an empty text and the name of a placeholder."""
    place, contexts = 0, [WORDS]  # what the place stands in, innermost last
    while place < len(text):
        if found := braces.match(text, place):
            yield ("", _check_placeholder(found[2], names, contexts[-1])) if found[2] else (f"{{{found[1]}}}", "")
            place = found.end()
            continue
        found = (CHARACTER if contexts[-1] in ("'", "#") or not shell else TOKEN).match(text, place)
        assert found is not None
        token = found[0]
        if token == "\\{" and (found := braces.match(text, place + 1)) and found[2]:
            _check_placeholder(found[2], names, "\\")
        if shell:
            _step(contexts, token, text[:place])
        yield token, ""
        place += len(token)


def _check_placeholder(name: str, names: Sequence[str], context: str) -> str:
    """The name, where it is known and its option can stand in this context."""
    if name not in names:
        allowed = ", ".join(f"{{{known}}}" for known in names)
        raise ObjectiveError(
            f"the command names {{{name}}}; allowed: {allowed}; for braces of the command's own write {{{{{name}}}}}"
        )
    if context != WORDS:
        raise ObjectiveError(
            f"the command has {{{name}}} {PLACES[context]}: write it outside, it is quoted by itself,"
            f' or write the command as a JSON list, ["program", "{{{name}}}"]'
        )
    return name


def _step(contexts: list[str], token: str, before: str) -> None:
    """Go on past a token of a shell's command."""
    context = contexts[-1]
    if token == CLOSED.get(context):
        if len(contexts) > 1:  # in a pattern of case, a parenthesis closes nothing
            contexts.pop()
        return
    opened = OPENED.get(context, {}).get(token)
    if opened is None or (token in ("#", "[[") and before and before[-1] not in " \t\n;|&()"):
        return
    if token == "case" and '"' not in contexts:
        return
    contexts += [opened] * (2 if token in ("((", "$((") else 1)
