"""`ppt-ncf export-onnx`."""

from pathlib import Path

import click

from ppt_commands.options import DATA_OPTION, JSON_OPTION, PATH, THREADS_OPTION
from ppt_commands.output import print_json, say


@click.command("export-onnx")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="New file.")
@DATA_OPTION
@THREADS_OPTION
@JSON_OPTION
def export_onnx(run: Path, out: Path, data: Path | None, as_json: bool) -> None:
    """Write the network of a RUN as an ONNX file (extra onnx), and compare it with PyTorch.

    It maps row numbers of users and items to logits; the original ids are in its metadata.

    \b
    Example:
      ppt-ncf export-onnx run --out network.onnx
    """
    from ncf_ppt.trained import load

    exported = load(run, data=data).export_onnx(out)
    print_json(exported.to_dict()) if as_json else say(exported)
