"""How token embeddings become bytes: centroids, codes and residuals."""
