"""The command line's entry points. Nothing imports this module; each command is a module of `ppt_commands`."""

from ppt_commands.programs import main, vision

__all__ = ["main", "vision"]

if __name__ == "__main__":
    main()
