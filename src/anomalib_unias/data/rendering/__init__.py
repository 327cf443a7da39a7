"""Renders the pictures of the built-in data set, :class:`anomalib_unias.data.SyntheticProducts`.

The road of a picture: a :mod:`scene <.scene>` (what lies there, and how) draws a
:mod:`surface <.surface>` (relief, colour, gloss) with the tools of :mod:`drawing <.drawing>`, a
:mod:`defect <.defects>` changes it, light falls on it, and a :mod:`camera <.camera>` takes the
picture. A :mod:`sample <.sample>` is made of two pictures, without and with the defect; where they
differ is the mask. The :mod:`library <.library>` keeps the pictures on the disk.
"""
