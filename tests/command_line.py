"""The commands, run in this process."""

import json
from typing import Any

from click import Group
from click.testing import CliRunner, Result


class CommandLine:
    """One of the two programs."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def call(self, *arguments: Any) -> Result:
        """Run a command."""
        return CliRunner().invoke(self.group, [str(argument) for argument in arguments])

    def succeed(self, *arguments: Any) -> dict[str, Any]:
        """Run a command with --json and return the object that stands alone on standard output."""
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def fail(self, *arguments: Any, code: int = 1) -> str:
        """Run a command that must fail, and return its one line."""
        result = self.call(*arguments)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.startswith(("no --data", "training into"))]
        assert len(lines) == 1, lines
        assert "Traceback" not in lines[0]
        return lines[0]
