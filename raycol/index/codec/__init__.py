"""The codec of token embeddings: k-means centroids, centroid codes and quantised residuals."""
