"""Where bytes live: one store over fsspec, artifacts with manifests."""
