"""Sweeps: many trainings with sampled settings, bad ones stopped early, on Ray Tune."""
