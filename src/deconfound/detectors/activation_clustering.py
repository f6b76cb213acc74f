"""Activation clustering: do the representations of one class fall into two heaps?

Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering", SafeAI workshop at AAAI
2019, arXiv:1811.03728. Per class of the given labels: representation, a few dimensions, k-means with two clusters,
and a rule that says whether one of them is poison. Dimensions by principal components, as in the benchmarks; the
paper takes independent components. Clustered once per class on one pass in the order of the data; a benchmark's
release clusters every batch of a shuffled loader, so that its flags may belong to other images.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from deconfound.detectors.evidence import Evidence, Flagged
from deconfound.detectors.scoring import held_out, representations
from deconfound.fields import Count, OpenFraction, Real, hyperparameters

Points = NDArray[np.float64]
FEWEST = 4  # images of a class that are worth cutting in two


class Halves(NamedTuple):
    """Two clusters of n points: cluster (n,) bool, False for that of the first point; silhouette: mean over the points,
    in [-1, 1]; other (m,) bool: the clusters of further points.
    """

    cluster: NDArray[np.bool_]
    silhouette: float
    other: NDArray[np.bool_]


@hyperparameters
class ActivationClustering:
    """components: principal components of a class that are clustered. starts: of k-means, the best of which counts.

    rule: which classes have poison in them. `smaller`: all of them; `relative_size`: those whose suspected cluster
    is less than `size`, a fraction of the class; `silhouette`: those whose mean silhouette exceeds the threshold
    `silhouette`. suspect: which cluster it is. `smaller`, as published, is a coin toss where poison is half of a
    class (of two that are equal it is the one without the first image); `unfamiliar` is the one to which the held-out
    images of that class go less often than its training images do, in proportion (ours).
    """

    components: Count = 10
    starts: Count = 10
    rule: Literal["smaller", "relative_size", "silhouette"] = "silhouette"
    size: OpenFraction = 0.35
    silhouette: Annotated[Real, Field(ge=-1, le=1)] = 0.15
    suspect: Literal["smaller", "unfamiliar"] = "smaller"

    def examine(self, evidence: Evidence) -> Flagged:
        """The score is the mean silhouette of the class for its suspected cluster, and minus that for the other
        one: a member of the suspect half of the most cloven class comes first, of its other half last. It is the
        same for every rule; 0 where a class has too few distinct images to be cut.
        """
        y, z = evidence.data.y.cpu(), representations(evidence.model, evidence.data.x).numpy()
        val_y, val_z = evidence.val.y.cpu(), np.zeros((0, z.shape[1]))
        if self.suspect == "unfamiliar":
            val_z = representations(evidence.model, held_out(evidence).x).numpy()
        state = int(torch.randint(2**31, (), generator=evidence.rng("activation_clustering")))
        scores, flags = torch.zeros(len(y)), torch.zeros(len(y), dtype=torch.bool)
        for label in range(evidence.classes):
            members = (y == label).nonzero().squeeze(1)
            familiar = val_z[(val_y == label).numpy()] if len(val_z) else val_z
            found = halves(
                z[members.numpy()], familiar, components=self.components, starts=self.starts, state=state
            )
            if found is None:
                continue
            suspected = torch.from_numpy(self._suspected(found))
            scores[members] = torch.where(suspected, found.silhouette, -found.silhouette)
            flags[members] = suspected & self._accused(suspected, found.silhouette)
        return Flagged(scores, flags)

    def _suspected(self, found: Halves) -> NDArray[np.bool_]:
        """Members (n,) of the cluster that would be the poison."""
        share = float(found.cluster.mean())
        if self.suspect == "smaller" or not len(found.other):
            second = share <= 0.5
        else:
            second = float(found.other.mean()) < share
        return found.cluster if second else ~found.cluster

    def _accused(self, suspected: Tensor, silhouette: float) -> bool:
        if self.rule == "relative_size":
            return float(suspected.double().mean()) < self.size
        return self.rule == "smaller" or silhouette > self.silhouette


def halves(points: Points, others: Points, *, components: int, starts: int, state: int) -> Halves | None:
    """Cut points (n, D) in two by k-means on their principal components, and assign others (m, D); None where fewer
    than four, or all the same. state: seed of k-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    if len(points) < FEWEST or not (points != points[0]).any():
        return None
    pca = PCA(n_components=min(components, *points.shape), svd_solver="full").fit(points)
    reduced = pca.transform(points)
    means = KMeans(n_clusters=2, n_init=starts, random_state=state).fit(reduced)
    first = means.labels_[0]
    cluster = means.labels_ != first
    other = means.predict(pca.transform(others)) != first if len(others) else np.zeros(0, bool)
    return Halves(cluster, float(silhouette_score(reduced, cluster)), other)
