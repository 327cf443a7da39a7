"""Images of the built-in data set, :class:`anomalib_unias.data.SyntheticProducts`."""
