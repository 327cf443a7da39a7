"""Workarounds for faults of anomalib 2.7 and Lightning 2.6, and access to what they keep private.

Each function and class here names the version and the reason, and has a test in ``tests/unit/test_compat.py`` that
fails once it is no longer needed. Nothing here imports from the rest of this package. A workaround that is a component
of its own, such as a resize or a post-processor, is in its own package; only its test is in ``test_compat.py``.

- ``data``: datamodules and data sets of anomalib.
- ``trainer``: limits, progress, loaders and validation of Lightning's trainer.
- ``checkpoints``: content of checkpoints, and files that are not checkpoints.
- ``scores``: post-processors of anomalib.
- ``models``: models of anomalib by their names.
- ``export``: export of anomalib to ONNX and OpenVINO.
- ``inferencers``: inferencers of anomalib for exported models.
"""
