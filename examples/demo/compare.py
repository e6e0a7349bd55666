"""Embeddings of two models -> how far they are apart, in the measures that a search or a classifier would notice."""
from dataclasses import dataclass

import numpy as np


@dataclass
class Comparison:
    mean_cosine: float
    min_cosine: float
    spearman: float
    same_nearest: int
    paraphrases: int


def compare(embeddings, reference):
    """Both [sentences, hidden] with unit rows; sentences 2i and 2i + 1 are paraphrases."""
    cosines = (embeddings * reference).sum(axis=1)
    upper = np.triu_indices(len(reference), 1)
    ours, theirs = similarities(embeddings), similarities(reference)
    return Comparison(
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        spearman=correlation(ranks(ours[upper]), ranks(theirs[upper])),
        same_nearest=int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
        paraphrases=int((ours.argmax(axis=1) == (np.arange(len(ours)) ^ 1)).sum()),
    )


def similarities(embeddings):
    all = embeddings @ embeddings.T
    np.fill_diagonal(all, -np.inf)
    return all


def ranks(values):
    order = np.empty(len(values), np.int64)
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return order


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])
