"""What a percentile is at 99 % confidence, from a finite number of queries. Pure.

Rules (those of MLPerf Inference, so that figures can be set beside published ones):
- The share of queries over the true percentile p is 1 - p. If t of n queries are at or over a latency, and a latency
  under the percentile would show t or fewer in less than 1 % of runs, then it is an upper bound of the percentile.
- The estimate is the t-th slowest query for the largest such t: t - 1 queries are discarded. 64 queries are the fewest
  for p90, 662 for p99; 855 queries discard 64 for p90.
- A percentile of samples is the one at index floor(n p) of the sorted ones: no interpolation.

Source: MLPerf Inference Rules, appendix 'Early Stopping Criterion'; loadgen/early_stopping.cc and results.cc of
github.com/mlcommons/inference at b66003e (tolerance 0, confidence 0.99). LoadGen searches the fewest fast queries h for
each t; here n is known and one sum over the binomial distribution finds t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeprune.records.benchmark import EarlyStopping

CONFIDENCE = 0.99


def estimate(latencies_ms: Sequence[float], percentile: float) -> EarlyStopping:
    """Upper bound of a percentile.

    Args:
        latencies_ms: Of every query, in any order.
        percentile: 0.9 for p90.
    """
    allowed = allowed_slow(len(latencies_ms), percentile)
    return EarlyStopping(
        percentile=percentile,
        queries=len(latencies_ms),
        needed=min_queries(percentile),
        discarded=allowed - 1 if allowed else None,
        estimate_ms=sorted(latencies_ms)[-allowed] if allowed else None,
    )


def allowed_slow(queries: int, percentile: float) -> int:
    """The largest number t of queries at or over the bound; 0 where there are too few queries.

    The probability of t or fewer slow queries of n is the sum of C(n, k) (1 - p)^k p^(n - k) for k up to t; in
    logarithms, because p^n underflows after some thousand queries.
    """
    if not 0 < percentile < 1:
        raise ValueError(f"a percentile lies between 0 and 1, not at {percentile}")
    slow, fast = math.log1p(-percentile), math.log(percentile)
    ways, seen = math.lgamma(queries + 1), 0.0
    for k in range(queries + 1):
        chance = ways - math.lgamma(k + 1) - math.lgamma(queries - k + 1) + k * slow + (queries - k) * fast
        seen += math.exp(chance)
        if seen >= 1 - CONFIDENCE:
            return max(k - 1, 0)
    return 0


def min_queries(percentile: float) -> int:
    """The fewest queries that say anything about a percentile."""
    queries = 2
    while not allowed_slow(queries, percentile):
        queries += 1
    return queries


def of_sorted(values: Sequence[float], percentile: float) -> float:
    """The percentile of sorted values as LoadGen takes it."""
    return values[int(len(values) * percentile)]
