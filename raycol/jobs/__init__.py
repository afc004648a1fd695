"""Long verbs as jobs of a Ray cluster: checked before submission, submitted once, followed, resumed."""
