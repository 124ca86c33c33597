# Debian's PostgreSQL, started with the settings that the official image reads.
FROM python:3.11-slim-bookworm
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
COPY start-postgres.sh /start-postgres.sh
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
RUN mkdir -p /var/lib/postgresql/data && chown -R postgres /var/lib/postgresql
USER postgres
CMD ["bash", "/start-postgres.sh"]
