"""Measures of a clip, taken on frames and sound as they are decoded."""
