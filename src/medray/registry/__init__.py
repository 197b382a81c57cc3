"""Models by name, version and alias, each with a card that says what it is for and where it came from."""

import os

# MLflow would tell its makers what is called here, and wait for an answer when a command ends.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
