"""calib_bench: post-hoc calibration against training-time softmax temperature."""

__version__ = "0.1.0"
