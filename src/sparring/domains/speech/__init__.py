"""Speech: waveforms `(B, T)` with levels in [-1, 1], threats in decibels, what networks hear of a sound."""
