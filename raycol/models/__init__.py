"""Models: checkpoint discovery, opening and saving encoders, models in object stores, tokenization."""
