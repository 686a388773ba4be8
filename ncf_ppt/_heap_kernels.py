"""The best items of a list as a heap, for other kernels: private, unchecked.

``scores`` and ``items`` are the two arrays of a heap, its ``length`` first places filled. At the root is the worst, so
that a full heap says at once whether an item enters. Of equal scores the higher item number is the worse.
"""
# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls

from numba import njit


@njit(inline="always")
def _is_worse(score, item, other_score, other_item):
    return score < other_score or (score == other_score and item > other_item)


@njit
def _sink(scores, items, length, score, item):
    """Put an item in the root's place, and then where it belongs among the first ``length``."""
    place = 0
    while 2 * place + 1 < length:
        below = 2 * place + 1
        if below + 1 < length and _is_worse(scores[below + 1], items[below + 1], scores[below], items[below]):
            below += 1
        if not _is_worse(scores[below], items[below], score, item):
            break
        scores[place], items[place] = scores[below], items[below]
        place = below
    scores[place], items[place] = score, item


@njit
def enter(scores, items, length, score, item):
    """Add an item that belongs in the heap, in the worst one's place if it is full: the new length."""
    if length == len(scores):
        _sink(scores, items, length, score, item)
        return length
    place = length
    while place > 0:
        above = (place - 1) >> 1
        if not _is_worse(score, item, scores[above], items[above]):
            break
        scores[place], items[place] = scores[above], items[above]
        place = above
    scores[place], items[place] = score, item
    return length + 1


@njit
def sort_best_first(scores, items, length):
    """Turn the heap into a list, best first and the lower number first among equals."""
    for last in range(length - 1, 0, -1):
        score, item = scores[last], items[last]
        scores[last], items[last] = scores[0], items[0]
        _sink(scores, items, last, score, item)
