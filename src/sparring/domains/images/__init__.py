"""Images `(B, C, H, W)`: threats that no norm describes, and the corruptions that cameras and weather make."""
