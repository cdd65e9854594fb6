"""What measures: models opened in this process, whole chains sampled from them, accuracy, calibration, intervals."""
