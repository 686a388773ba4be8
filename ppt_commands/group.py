"""A group of commands with errors of one line."""

import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from ppt_commands.output import tell
from ppt_commands.streams import open_standard_streams
from ppt_core.environment import set_environment
from ppt_core.errors import DataError, DataWarning
from ppt_core.visible_text import visible

TRACEBACK = "PPT_TRACEBACK"
"""Environment variable that shows the whole of an error that nobody expected."""

RENAMED = {"rescore": "rerank", "schedule": "lr-schedule"}
"""Options by the names that they had before; these are taken for one more release, with a line of notice."""


class CommandGroup(click.Group):
    """A group whose errors are one line on standard error: exit code 2 for settings, 1 for data and files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {
            "help_option_names": ["-h", "--help"],
            "max_content_width": 100,
            "token_normalize_func": _new_name,
        }
        super().__init__(*args, context_settings=settings, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse and run; what files and streams raise becomes one line, and none for a pipe that nobody reads."""
        open_standard_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what the library raises into one line."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            set_environment(tell)
            with warnings.catch_warnings():
                warnings.simplefilter("always", DataWarning)
                warnings.showwarning = partial(self._tell_warning, ctx, warnings.showwarning)
                return super().invoke(ctx)
        except DataError as error:
            _fail(self._in_options(ctx, str(error)), 1)
        except UnicodeEncodeError as error:
            text = ascii(error.object[error.start : error.end])
            _fail(f"{text} cannot be written in {error.encoding}; set PYTHONIOENCODING=utf-8", 1)
        except ValueError as error:
            _fail(self._in_options(ctx, str(error)), 2)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            _fail(_unexpected(error, words), 1)

    def _tell_warning(self, ctx: click.Context, others: Any, message: Any, category: Any, *where: Any) -> None:
        """Print what the library warns of as one line; a warning of another kind goes where it always does."""
        if issubclass(category, DataWarning):
            return tell(f"warning: {self._in_options(ctx, str(message))}")
        others(message, category, *where)

    def _in_options(self, ctx: click.Context, message: str) -> str:
        """The library's message, which names arguments, with the options of the command that stand for them."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        commands = command.commands.values() if isinstance(command, click.Group) else [command] if command else []
        return in_options(message, *commands)


def in_options(message: str, *commands: click.Command) -> str:
    """The library's message, which names arguments, with the options of commands that stand for them."""
    for option in (each for one in commands for each in one.params if isinstance(each, click.Option)):
        name, flag = str(option.name), max(option.opts, key=len)
        message = re.sub(rf"(?<![\w.-]){name}='(\w+)'", rf"{flag} \1", message)
        message = re.sub(rf"(?<![\w.-]){name}=('[^']+')", rf"{flag} \1", message)  # as in "say order='file'"
        message = re.sub(rf"(?<![\w.-]){name}=(?!\w)", flag, message)  # as in "name it with data="
        message = re.sub(rf"^{name}(?= is )", flag, message)
        if "_" in name:
            message = re.sub(rf"(?<![\w./-]){name}(?![\w./(])", flag, message)
    return message


def _unexpected(error: Exception, words: Sequence[str]) -> str:
    """What is said where nothing better is known: what happened, in reading what, and how to report it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    read = ", ".join(word for word in words if os.path.exists(word))
    damaged = f"; {read} may be damaged, or made by another program; else" if read else "; "
    return (
        f"{type(error).__name__}: {str(error)[:300] or 'no more is known'} ({Path(place.filename).name}, line "
        f"{place.lineno}), which nobody expected{damaged} please report it with the output of `ppt-ncf doctor` and "
        f"what the same command prints with {TRACEBACK}=1"
    )


def _new_name(token: str) -> str:
    """The name of an option, which click hands over without its dashes."""
    if token in RENAMED:
        tell(f"--{token} is called --{RENAMED[token]} now; the old name goes with the next release")
    return RENAMED.get(token, token)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"Error: {visible(' '.join(message.split()))}", err=True)
    sys.exit(code)
