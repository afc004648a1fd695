"""Search over open partitions: probes, candidates, rescoring, filters."""
