"""What a user does with a trained network: package, calibrate, predict, evaluate, export."""
