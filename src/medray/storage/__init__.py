"""Bytes at a URI: a path, ``s3://``, ``gs://`` or ``abfs://``, through `pyarrow.fs`. Knows nothing of images."""
