"""The contracts of the seven kinds of components, the hook specifications, and the registry.

Third parties import :mod:`flowcore.plugins.api` only; so do the built-in components.
"""
