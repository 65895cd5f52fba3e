"""Place recognition with the frozen embedding: images of the same place should be those most similar to the query."""

from __future__ import annotations

from dino_train.evaluation.encoders import Encoder, embed_images
from dino_train.evaluation.ranking.ground_truth import GroundTruth
from dino_train.evaluation.ranking.ranking_scores import RankingScores, ranking_scores


def retrieval_scores(encoder: Encoder, truth: GroundTruth) -> RankingScores:
    """Rank by the cosine of whole images' embeddings; raises UserError for a file that is no image."""
    return ranking_scores(truth, embed_images(encoder, truth.files))
