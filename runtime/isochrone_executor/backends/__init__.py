"""Engines that run a variant, one file each, behind one port.

``port`` says what a backend must offer, ``contract`` checks that it does, ``registry`` opens one
by name. No backend is imported before a variant needs it.
"""
