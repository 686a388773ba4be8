"""`python -m ppt_commands` is `ppt-ncf`, whatever else the working directory holds."""

from ppt_commands.programs import main

if __name__ == "__main__":
    main(prog_name="ppt-ncf")
