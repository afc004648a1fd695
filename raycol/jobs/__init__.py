"""Long work as jobs of a Ray cluster: checked here, sent once, followed, found again."""
