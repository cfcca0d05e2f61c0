"""Numbers with intervals: every number this suite reports carries an interval that covers at its number of clusters, its n, and a p.

The pair (a harmful request with its harmless twin) is the unit that was sampled: intervals and tests take whole clusters. Which interval
and which test a number gets, and how often they cover, is in docs/statistics.md.
"""

from safesteer_interp.statistics.aurocs import (
    auroc,
    auroc_variance,
    cluster_auroc,
    cluster_auroc_difference,
    cluster_auroc_gap,
    cluster_aurocs,
)
from safesteer_interp.statistics.clusters import cluster_codes, cluster_weights
from safesteer_interp.statistics.estimate import COLUMNS, ENOUGH_DRAWS, Against, Estimate, percentile
from safesteer_interp.statistics.means import DIFFERENCE, OUTCOME, cluster_difference, cluster_mean, from_influence, stratified_mean
from safesteer_interp.statistics.permutations import holm, mcnemar, permutation_test, sign_flip_test
from safesteer_interp.statistics.rates import cluster_rate, wilson
from safesteer_interp.statistics.resampling import (
    Statistic,
    cluster_bootstrap,
    cluster_jackknife,
    expanded,
    from_jackknife,
    paired_bootstrap,
)

__all__ = [
    "COLUMNS",
    "DIFFERENCE",
    "ENOUGH_DRAWS",
    "OUTCOME",
    "Against",
    "Estimate",
    "Statistic",
    "auroc",
    "auroc_variance",
    "cluster_auroc",
    "cluster_auroc_difference",
    "cluster_auroc_gap",
    "cluster_aurocs",
    "cluster_bootstrap",
    "cluster_codes",
    "cluster_difference",
    "cluster_jackknife",
    "cluster_mean",
    "cluster_rate",
    "cluster_weights",
    "expanded",
    "from_influence",
    "from_jackknife",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "percentile",
    "permutation_test",
    "sign_flip_test",
    "stratified_mean",
    "wilson",
]
