"""The one place for what anomalib 2.7 and Lightning 2.6 do wrong, and for what they keep private.

Each function and class here names the version and the reason, and has a test in ``tests/unit/test_compat.py`` that
fails once it is no longer needed. Nothing here imports from the rest of this package. What is a part of its own, such
as a resize or a post-processor, is where it belongs, and only its test is there.

- ``data``: datamodules and data sets of anomalib.
- ``trainer``: limits, progress, loaders and validation of Lightning's trainer.
- ``checkpoints``: what a checkpoint keeps, and files that are none.
- ``scores``: post-processors of anomalib.
- ``models``: models of anomalib by their names.
- ``export``: what anomalib does around ONNX and OpenVINO.
"""
