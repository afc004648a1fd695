"""Ray: the session, the capacity of a cluster, and the executor that runs work on it or in this process."""
