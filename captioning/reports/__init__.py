"""Pages to look at: gallery, charts, calibration, contact sheet."""
