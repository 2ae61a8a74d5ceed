"""What a gate promises, and what a sample of images says of it: limits of scores, and intervals of missed shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
NOTHING_PASSES = -math.inf
"The limit of a gate that passes no image."


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float


def exact_interval(count: int, of: int) -> Share:
    """Return the share of `count` in `of` with the exact interval of Clopper and Pearson (1934) for a binomial count.

    Of none, nothing is known: the share is 0, and its interval [0, 1].

    Example:
        >>> found = exact_interval(0, 3000)
        >>> round(found.low, 5), round(found.high, 5)
        (0.0, 0.00123)
    """
    if of == 0:
        return Share(0.0, 0.0, 1.0)
    beyond = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else _root(lambda p: 1 - _at_most(count - 1, of, p) - beyond)
    high = 1.0 if count == of else _root(lambda p: beyond - _at_most(count, of, p))
    return Share(count / of, low, high)


def fewest_flagged(missed: float) -> int:
    """Return how many flagged images a limit needs, to promise that at most a share `missed` of them is lost.

    Example:
        >>> fewest_flagged(0.001)
        999
    """
    return math.ceil(1 / missed - 1 - 1e-9)


def limit_for(flagged: np.ndarray, missed: float) -> float:
    """Return the gate's limit, below which images are passed on as good.

    A new flagged image lies below the k-th lowest of n scores with a probability of at most k / (n + 1), for any
    distribution (conformal prediction). The limit is the k-th lowest score with the largest k that promises `missed`.

    Args:
        flagged: [N] gate scores of images that the detector flags.
        missed: the share of flagged images that may be passed, in (0, 1).

    Returns:
        The limit, a float32; `NOTHING_PASSES` if the images are too few for the promise.

    Example:
        >>> limit_for(np.arange(1999.0), 0.001), limit_for(np.arange(10.0), 0.001)
        (1.0, -inf)
    """
    rank = math.floor(missed * (len(flagged) + 1) + 1e-9)
    return float(np.sort(flagged.astype(np.float32))[rank - 1]) if rank else NOTHING_PASSES


def missed_share(passed: int, audited: int, missed: int, caught: int) -> Share:
    """Return which share of the images that a detector flags the gate would pass, with its 95 % interval.

    The interval is that of the audit, a random sample of the passed images. The number that the detector flagged of
    the others is known.

    Args:
        passed: images that the gate would pass.
        audited: of these, the ones that went through the detector too.
        missed: of these, the ones that the detector flagged.
        caught: images that the gate does not pass and the detector flagged.

    Example:
        >>> missed_share(passed=1000, audited=100, missed=1, caught=90).value
        0.1
    """
    if passed == 0:
        return Share(0.0, 0.0, 0.0)
    rate = exact_interval(missed, audited)
    # All that were audited are counted, so at least `missed` were passed, and an audit of all leaves no doubt.
    doubtful = passed - audited

    def share(of_others: float) -> float:
        lost = missed + doubtful * of_others
        return lost / (lost + caught) if lost else 0.0

    return Share(share(rate.value), share(rate.low), share(rate.high))


def _at_most(count: int, of: int, p: float) -> float:
    """Return the probability of at most `count` successes in `of` trials of probability p in (0, 1)."""
    hits = np.arange(count + 1)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((of - hits[1:] + 1) / hits[1:]))])
    return float(np.exp(log_ways + hits * math.log(p) + (of - hits) * math.log1p(-p)).sum())


def _root(rising: Callable[[float], float]) -> float:
    """Return where a function of a probability that rises with it crosses 0, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
