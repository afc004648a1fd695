"""Used by every layer: configuration, locations, progress, locks. Imports only `raycol.errors` of raycol."""
