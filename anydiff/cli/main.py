"""The `anydiff` command: from functions to flags, and from errors to one line.

jsonargparse makes the flags of each function from its signature, and their help from its docstring.
:func:`run` does the same for one function of one's own, as the examples use it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from anydiff.cli.numbers import Numbers
from anydiff.cli.runs import printable
from anydiff.extras import extra
from anydiff.training.memory import keep_freed

with extra("train"):
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

__all__ = ["build", "main", "parser", "run"]

_NAMES: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH", Numbers: "N,N"}

_WANTED = {
    "N": "a whole number",
    "X": "a number",
    "N,N": "numbers such as 3,8",
    "BOOL": "true or false",
}
_FLAGS = "give a YAML file with lines such as 'num: 3'"


class Help(DefaultHelpFormatter):
    """Help that shows the defaults that say something, and types as the names of values."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, **kwargs | {"max_help_position": 28})  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: Any) -> str:
        text = action.help or ""
        if any(action.default is none for none in (None, False)) or not action.option_strings:
            return text
        return text if action.default == "==SUPPRESS==" else f"{text} (default: %(default)s)"


class Parser(ArgumentParser):
    """A parser that says in one line what is wrong and what to do about it."""

    command = "anydiff"

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # --num is no --num-nodes

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The flags of a file, which is text.

        Arguments:
            cfg_path: The file.
            args: As jsonargparse has them.
            kwargs: As jsonargparse has them.
        """
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except UnicodeDecodeError:
            self.error(f"--config: {cfg_path} is no text; {_FLAGS}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and end with status 2.

        Arguments:
            message: As jsonargparse has it.
            ex: Where it came from.

        Raises:
            SystemExit: Always, with status 2.
        """
        command, text = self._plain(message)
        print(f"error: {text} (see {command} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _plain(self, message: str) -> tuple[str, str]:
        """Of which command it is, and in words."""
        key = re.search(r'Parser key "([\w.]+)"', message)
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        if key and value:
            name = key[1].split(".")[-1]
            shown = next((a.metavar for a in self._actions if a.dest == name), None)
            wanted = _WANTED.get(str(shown), str(shown).strip("{}").replace(",", " or "))
            flag = f"--{name.replace('_', '-')}"
            return self.command, f"{flag} is {value[1].strip()}; give {wanted}"
        if required := re.search(r"arguments are required: (\S+)", message):
            *words, name = required[1].split(".")
            return " ".join([self.command, *words]), f"{name} is missing"
        if choice := re.search(r'expected "(.*?)" to be one of \{(.*?)\}, but', message):
            words = choice[1].split(".")[:-1]
            text = f"give one of {choice[2].replace(',', ', ')}"
            return " ".join([self.command, *words]), text
        if choice := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*?)\)", message):
            return self.command, f"{choice[1]} is unknown; give one of {choice[2]}".replace("'", "")
        if message.startswith("Unexpected config"):
            return self.command, f"--config: the file holds no flags; {_FLAGS}"
        message = re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)
        return self.command, re.sub(r"\s*\n\s*", " ", message).strip()


def commands() -> dict[str, Any]:
    """The commands by name: functions, or a group of them with what it does."""
    from anydiff.cli import distill, draw, evaluate, finetune, info, report, train

    return {
        "train": (
            "Train a model.",
            {
                "molecules": train.molecules,
                "sketches": train.sketches,
                "images": train.images,
                "smiles": train.smiles,
            },
        ),
        "finetune": finetune.finetune,
        "distill": distill.distill,
        "sample": draw.sample,
        "inpaint": draw.inpaint,
        "edit": draw.edit,
        "interpolate": draw.interpolate,
        "reconstruct": draw.reconstruct,
        "evaluate": evaluate.evaluate,
        "info": info.info,
        "models": info.models,
        "view": report.view,
    }


def build(function: Callable[..., Any], prog: str) -> Parser:
    """A parser with the flags of a function.

    Arguments:
        function: With types and a docstring. What stands before the star of its signature and has no
            default is given without a flag.
        prog: The command, for usage and errors.
    """
    lines = (function.__doc__ or "").split("\n\n")
    about = [" ".join(line.split()) for line in lines[:2] if "Arguments:" not in line]
    parser = Parser(prog=prog, description="\n\n".join(about), formatter_class=Help)
    parser.add_argument("--config", action="config", help="a YAML file with any of these flags")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    words = []
    for action in parser._actions:
        if not action.option_strings:
            action.metavar = action.dest.upper()
            words.append(action.metavar)
        elif action.dest == "config":
            action.metavar = "FILE"
        elif action.dest == "print_config":
            action.help = "print all flags with their values, as a file for --config, and stop"
        elif hasattr(action, "_typehint"):
            _show(parser, action, action._typehint)
    parser.usage = " ".join([prog, *words, "[flags]"])
    parser.command = prog
    return parser


def _show(parser: Parser, action: Any, hint: Any) -> None:
    """Flags with hyphens, their values named by type; one that is yes or no needs no value."""
    for flag in [f for f in action.option_strings if "_" in f]:
        parser._option_string_actions[flag.replace("_", "-")] = action
    action.option_strings = [f.replace("_", "-") for f in action.option_strings]
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    if kinds == [bool]:
        action.nargs, action.const, action.metavar = "?", True, "BOOL"
    elif get_origin(hint) is Literal or get_origin(kinds[0]) is Literal:
        names = get_args(hint) if get_origin(hint) is Literal else get_args(kinds[0])
        action.metavar = f"{{{','.join(names)}}}"
    else:
        action.metavar = _NAMES[kinds[0]]


def parser() -> Parser:
    """The parser of the whole command line."""
    made = Parser(
        prog="anydiff",
        description="Diffusion models of molecules, sketches, images and SMILES: train, draw, evaluate.",
        usage="anydiff COMMAND ...",
        formatter_class=Help,
    )
    from anydiff import __version__

    made.add_argument("--version", action="version", version=f"anydiff {__version__}")
    choice = made.add_subcommands(dest="command", title="commands")
    for name, command in commands().items():
        if callable(command):
            about = (command.__doc__ or "").split("\n")[0]
            choice.add_subcommand(name, build(command, f"anydiff {name}"), help=about)
            continue
        about, members = command
        group = Parser(
            prog=f"anydiff {name}",
            description=about,
            usage=f"anydiff {name} {{{','.join(members)}}} ...",
            formatter_class=Help,
        )
        group.command = f"anydiff {name}"
        choice.add_subcommand(name, group, help=about)
        inner = group.add_subcommands(dest="kind", title="kinds of data")
        for member, function in members.items():
            prog = f"anydiff {name} {member}"
            line = (function.__doc__ or "").split("\n")[0]
            inner.add_subcommand(member, build(function, prog), help=line)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line.

    Arguments:
        argv: Its words; those of the process if None.

    Raises:
        SystemExit: With status 2 for what cannot be done, and after Ctrl-C.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    whole = parser()
    if not given:
        whole.print_help(sys.stderr)
        raise SystemExit(2)
    asked, function = whole.parse_args(given).as_dict(), commands()
    while (name := asked.get("command") or asked.get("kind")) in function:
        asked, made = asked[name], function[name]
        function = {} if callable(made) else made[1]
    _call(made, asked)


def run(function: Callable[..., Any], argv: Sequence[str] | None = None) -> None:
    """Call a function with flags from the command line, and tell its errors in one line.

    Arguments:
        function: With types and a docstring, which make the flags and their help.
        argv: The words; those of the process if None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prog = f"python {sys.argv[0]}"
    _call(function, build(function, prog).parse_args(words).as_dict())


def _call(function: Callable[..., Any], asked: dict[str, Any]) -> None:
    asked.pop("config", None)
    keep_freed()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("anydiff")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            function(**asked)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(1) from None
        text = printable(" ".join(str(error).split())) or type(error).__name__
        if isinstance(error, RuntimeError):
            if "allocate" not in text:
                raise
            text = f"there is not enough memory ({text}); give smaller numbers"
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as stop:
        print(f"\nStopped: {stop}" if str(stop) else "\nStopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _nobody_reads() -> bool:
    """Whether the output went to a program that has read enough, `head` for instance."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return True
    return False


def _say(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {printable(str(message))}", file=sys.stderr)
