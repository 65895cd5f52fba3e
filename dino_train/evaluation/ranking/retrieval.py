"""Place recognition with the frozen embedding: the pictures of the same place are those most similar to the query."""

from __future__ import annotations

from dino_train.evaluation.encoders import Encoder, embed_pictures
from dino_train.evaluation.ranking.ranking import GroundTruth, RankingScores, ranking_scores


def retrieval_scores(encoder: Encoder, truth: GroundTruth) -> RankingScores:
    """Rank by the cosine of whole pictures' embeddings; raises UserError for a file that is no picture."""
    return ranking_scores(truth, embed_pictures(encoder, truth.files))
