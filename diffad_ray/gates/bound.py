"""What a gate promises, and what a sample of images says of it: limits of scores, and the missed share."""

from __future__ import annotations

import math

import numpy as np

from diffad_ray.intervals import Interval, exact_interval

NOTHING_PASSES = -math.inf
"The limit of a gate that passes no image."


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


def missed_share(passed: int, audited: int, missed: int, caught: int) -> Interval:
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
        return Interval(0.0, 0.0, 0.0)
    rate = exact_interval(missed, audited)
    # All that were audited are counted, so at least `missed` were passed, and an audit of all leaves no doubt.
    doubtful = passed - audited

    def share(of_others: float) -> float:
        lost = missed + doubtful * of_others
        return lost / (lost + caught) if lost else 0.0

    return Interval(share(rate.value), share(rate.low), share(rate.high))
