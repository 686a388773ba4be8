"""A group of commands with errors of one line."""

import os
import sys
from typing import Any

import click

from ppt_core.environment import ENVIRONMENT
from ppt_core.errors import DataError


class CommandGroup(click.Group):
    """A group whose errors are one line on standard error: exit code 2 for settings, 1 for data and files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        super().__init__(*args, context_settings=settings, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what the library raises into one line."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            return super().invoke(ctx)
        except DataError as error:
            _fail(str(error), 1)
        except ValueError as error:
            _fail(str(error), 2)
        except BrokenPipeError:
            raise  # whoever read the output has enough: click ends without a word
        except OSError as error:
            _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(code)
