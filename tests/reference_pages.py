"""The parts of the reference pages that the code itself knows: signatures, and the verbs with their arguments.

`python tests/reference_pages.py` writes them into `docs/reference/`, from the installed package.
"""

import argparse
import inspect
import re
from pathlib import Path

import nnunet_ext
from nnunet_ext.cli.arguments import common_options
from nnunet_ext.cli.main import make_parser

DOCS = Path(__file__).parents[1] / "docs" / "reference"
PYTHON, COMMANDS = DOCS / "python.md", DOCS / "commands.md"
WIDTH = 100  # of a signature on one line

_NAME = re.compile(r"^### `(\w+)`\n", flags=re.MULTILINE)
_SIGNATURE = re.compile(r"^### `(?P<name>\w+)`\n\n```text\n(?P<text>.*?)\n```$", flags=re.MULTILINE | re.DOTALL)

COMMANDS_HEAD = """# Commands

All verbs of `nnunet_ext` and their arguments, in the words of `nnunet_ext VERB --help`. An option that is not given has
the default of the verb's [Python function](python.md).

| exit code | meaning |
|---|---|
| 0 | all went well |
| 1 | something failed, and a line on standard error says what |
| 2 | the arguments make no sense |
| 130 | interrupted |

Options of every verb:

"""


def documented_names(page: str) -> list[str]:
    """Names that the page on Python has a section for."""
    return _NAME.findall(page)


def with_signatures(page: str) -> str:
    """The page on Python, with the signatures of the installed package."""
    return _SIGNATURE.sub(lambda found: f"### `{found['name']}`\n\n```text\n{signature(found['name'])}\n```", page)


def signature(name: str) -> str:
    """The call of a public name, one parameter per line if it is long."""
    called = getattr(nnunet_ext, name)
    found = inspect.signature(called)
    words, keyword_only = [], False
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            words.append("*")
            keyword_only = True
        word = f"{'**' if parameter.kind is parameter.VAR_KEYWORD else ''}{parameter.name}"
        word += f": {_annotation(parameter.annotation)}"
        default = parameter.default
        value = f'"{default}"' if isinstance(default, str) else repr(default)
        words.append(word if default is parameter.empty else f"{word} = {value}")
    end = ")" if inspect.isclass(called) else f") -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(words)}{end}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {word}," for word in words), end])


def _annotation(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Z]\w+\b)(?<!sitk\.)", "", text)


def commands_page() -> str:
    """Every verb with its arguments."""
    parts = [COMMANDS_HEAD + _table(common_options())]
    for verb, parser in _choices(make_parser()).items():
        kinds = _choices(parser)
        parts += [_section(f"{verb} {kind}", one) for kind, one in kinds.items()] if kinds else [_section(verb, parser)]
    return "\n".join(parts)


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def _section(verb: str, parser: argparse.ArgumentParser) -> str:
    example = parser.epilog.splitlines()[-1].strip()
    return f"## `{verb}`\n\n{parser.description}\n\n```bash\n{example}\n```\n\n{_table(parser)}"


def _table(parser: argparse.ArgumentParser) -> str:
    common = {"help"} if parser.prog == common_options().prog else {"help", "debug"}
    groups = [(group._group_actions, group.required) for group in parser._mutually_exclusive_groups]
    rows = []
    for action in parser._actions:
        if action.dest in common:
            continue
        value = parser._get_formatter()._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
        call = " ".join([", ".join(action.option_strings), value]).strip()
        note = " (required)" if action.required and action.option_strings else ""
        for actions, required in groups:
            if action in actions:
                others = " or ".join(f"`{other.option_strings[0]}`" for other in actions if other is not action)
                note = f" (this or {others} is required)" if required else f" (not with {others})"
        rows.append(f"| `{call}` | {action.help}{note} |")
    return "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n" if rows else "No arguments.\n"


if __name__ == "__main__":
    PYTHON.write_text(with_signatures(PYTHON.read_text(encoding="utf-8")), encoding="utf-8")
    COMMANDS.write_text(commands_page(), encoding="utf-8")
