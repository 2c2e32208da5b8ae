"""Measures of embeddings and scores: arrays in, numbers out. Nothing here knows a model."""
