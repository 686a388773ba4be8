"""What is said of the layers of a network: kinds, bytes, and the operations that score a pair."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

Form = Literal["32-bit", "simulated", "packed", "8-bit"]
BITS = {"float32": 32, "int8": 8, "binary": 1}


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer.

    Attributes:
        name: in the network.
        kind: what it is.
        shape: of its weights.
        bits: of a weight, or of an activation.
        latent_bytes: what it holds as it was trained, in float32.
        packed_bytes: what it holds in a packed file; None for a network that has no such file.
        operations: how many of which kind score one pair when a catalogue is scored: halves of the first layer are
            computed once for each table then, so a pair costs their sum.
        form: ``32-bit``; ``simulated``: 1-bit by its values, computed in float32 or by counting bits that were just
            packed; ``packed``: stored and computed as bits; ``8-bit``: stored as int8, read as float32.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    latent_bytes: int
    packed_bytes: int | None
    operations: dict[str, int]
    form: Form

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON values."""
        return asdict(self) | {"shape": list(self.shape)}


def table_report(name: str, n_rows: int, size: int, bits: int, packed_bytes: int | None, form: Form) -> LayerReport:
    """An embedding table."""
    return LayerReport(
        name=name,
        kind="Embedding",
        shape=(n_rows, size),
        bits=bits,
        latent_bytes=4 * n_rows * size,
        packed_bytes=packed_bytes,
        operations={},
        form=form,
    )


def first_report(layer: nn.Linear, packed_bytes: int | None) -> LayerReport:
    """The first layer of an MLP, whose halves are computed once for each table."""
    return LayerReport(
        name="first",
        kind="Linear",
        shape=(layer.out_features, layer.in_features),
        bits=32,
        latent_bytes=4 * layer.out_features * (layer.in_features + (layer.bias is not None)),
        packed_bytes=packed_bytes,
        operations={"32-bit add": layer.out_features},
        form="32-bit",
    )


def hidden_report(
    name: str, n_in: int, n_out: int, packed_bytes: int | None, has_batch_norm: bool, form: Form
) -> LayerReport:
    """A Linear layer behind others; 1-bit unless ``form`` is 32-bit."""
    kind = "32-bit" if form == "32-bit" else "1-bit"
    return LayerReport(
        name=name,
        kind="Linear",
        shape=(n_out, n_in),
        bits=32 if form == "32-bit" else 1,
        latent_bytes=4 * n_out * (n_in + (not has_batch_norm)),
        packed_bytes=packed_bytes,
        operations={f"{kind} multiply-add": n_in * n_out},
        form=form,
    )


def activation_report(
    name: str, width: int, bits: int, packed_bytes: int | None, has_batch_norm: bool, form: Form
) -> LayerReport:
    """An activation of so many bits."""
    activation = "PACT" if bits == 1 else "ReLU"
    operation = {"comparison": width} if bits == 1 else {"32-bit multiply-add": width, "comparison": width}
    return LayerReport(
        name=name,
        kind=f"BatchNorm + {activation}" if has_batch_norm else activation,
        shape=(width,),
        bits=bits,
        latent_bytes=16 * width * has_batch_norm + 4 * (bits == 1),
        packed_bytes=packed_bytes,
        operations=operation,
        form=form,
    )


def last_report(n_factors: int, n_units: int, packed_bytes: int | None) -> LayerReport:
    """The last layer."""
    return LayerReport(
        name="last",
        kind="Linear",
        shape=(1, n_factors + n_units),
        bits=32,
        latent_bytes=4 * (n_factors + n_units + 1),
        packed_bytes=packed_bytes,
        operations={"32-bit multiply-add": n_factors + n_units},
        form="32-bit",
    )


def once_a_user(report: LayerReport) -> LayerReport:
    """The same layer where it is computed once for each user, however many items are scored."""
    return replace(report, operations={f"{kind}, once a user": n for kind, n in report.operations.items()})
