"""A model's own chat template: what it writes before and after the message of a prompt.

The template is a program (Jinja) out of a folder that may be another person's. It runs in jinja2's sandbox, in which
transformers runs it, too, and it runs at load alone: of what it writes only the frame around the message is kept.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lmsearcher_local.errors import CheckpointError
from lmsearcher_local.system.folders import read_json

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
FILES = (CONFIG, TEMPLATE, "special_tokens_map.json")  # what a frame is made of
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MESSAGES = ("7654321|0.5,1234567;", "9876543;")  # a template that treats these alike treats all messages alike


class Frame(NamedTuple):
    """The text before a prompt's message, and between the message and the answer."""

    before: str
    after: str


def own_frame(folder: Path, date: str) -> Frame:
    """What a folder's chat template writes around one message, up to where the assistant's answer begins.

    The message is the system message, as in the published protocol. Where the template refuses a chat of that alone,
    or leaves the message out or changes it (Gemma's has no such role), it is the user's. To the template, today is
    ``date``, like ``26 Jul 2024``.

    Raises:
        CheckpointError: there is no template, it fails, or it does not show the message as it is.
    """
    source, variables = _source(folder)
    reason = "it does not show the message as it is"
    for role in ("system", "user"):
        try:
            frames = {_frame(source, variables, role, message, date) for message in MESSAGES}
        except Exception as error:  # it is a program: anything
            reason = " ".join(str(error).split()) or type(error).__name__
            continue
        if len(frames) == 1 and (frame := frames.pop()) is not None:
            return frame
    raise CheckpointError(f"the chat template of {folder} cannot be used: {reason}")


def end_of_answer(folder: Path) -> str:
    """The token that ends a text in this folder's model, which has to name one."""
    _, variables = _source(folder)
    if not variables.get("eos_token"):
        raise CheckpointError(f"{folder / CONFIG} names no eos_token, which has to end an answer")
    return variables["eos_token"]


def _source(folder: Path) -> tuple[str, dict[str, str]]:
    """The template, and the special tokens that it may write."""
    files = (folder / "special_tokens_map.json", folder / CONFIG)
    contents = [read_json(file) if file.exists() else {} for file in files]
    variables: dict[str, str] = {}
    for name, value in (item for content in contents for item in content.items()):
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            variables[name] = text
    template = contents[1].get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}.get("default")
    if (folder / TEMPLATE).exists():
        try:
            template = (folder / TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read {folder / TEMPLATE}: {error}") from error
    if not isinstance(template, str) or not template.strip():
        raise CheckpointError(f"{folder} has no chat template, in {TEMPLATE} or as chat_template of {CONFIG}")
    return template, variables


def _frame(source: str, variables: dict[str, str], role: str, message: str, date: str) -> Frame | None:
    """What stands around the message, or ``None`` where it does not stand there once."""
    day, month, year = date.split()
    today = datetime(int(year), MONTHS.index(month) + 1, int(day))
    chat = {"messages": [{"role": role, "content": message}], "add_generation_prompt": True}
    given = {"tools": None, "documents": None, "date_string": date}  # the date is for Llama 3's templates
    text = _environment(today).from_string(source).render(**chat, **given, **variables)
    parts = text.split(message)
    return Frame(*parts) if len(parts) == 2 and parts[1] else None


def _environment(today: datetime) -> Any:
    """The one that transformers makes, but for the date."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """A tag around the answer, for training; here it says nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **layout)

    def refuse(reason: str) -> NoReturn:
        raise TemplateError(reason)

    extensions = [Generation, loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": today.strftime}
    return environment
