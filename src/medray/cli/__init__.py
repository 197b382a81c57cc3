"""The command line: thin commands over the public API, one JSON object with ``--json``, exit code 2 for bad input."""
