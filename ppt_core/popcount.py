"""Number of ones of a word, for kernels: its text never changes, so that those which call it may be kept compiled."""
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

from numba import types
from numba.extending import intrinsic


@intrinsic
def popcount(typing_context, word):
    """Number of ones of a 64-bit word; LLVM turns a loop of them into vector instructions where there are any."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate
