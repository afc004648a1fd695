"""What every layer uses: configuration, locations, progress, locks. It imports nothing else of raycol but errors."""
