"""What models do in use: a row for each prediction, metrics, drift, and what is to be done about it."""
