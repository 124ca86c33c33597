"""One thin Prefect task per step: read refs, call the core, write, return a ref."""
