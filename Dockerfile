# Every image of Tally: its code and `python -m cluster.container ROLE` on a base that has the program. BASE and REQUIREMENTS
# are what differs; docker-compose.production.yml has them.
ARG BASE=python:3.13-slim
ARG DEBIAN=debian:trixie-slim

FROM ${DEBIAN} AS etcd
RUN apt-get update -qq && apt-get install -yqq --no-install-recommends etcd-server etcd-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home tally && install -d -o tally -g tally -m 700 /srv/data
ARG VERSION=dev
LABEL org.opencontainers.image.title="Tally's etcd" org.opencontainers.image.version=${VERSION}
USER tally
ENTRYPOINT ["etcd"]

FROM ${BASE} AS tally
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --no-create-home tally \
    && install -d -o tally -g tally -m 755 /srv/data /srv/static /run/secrets \
    && if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
        apt-get update -qq && apt-get install -yqq --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; fi
ARG REQUIREMENTS=production
WORKDIR /opt/tally
COPY requirements/build.txt requirements/${REQUIREMENTS}.txt requirements/
# python-etcd and ydiff have no wheels, as the Makefile says. A pip.conf of your own is the secret `pip`, its certificates `ca`.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 -m venv /opt/venv \
    && pip="python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes" \
    && $pip --only-binary :all: -r requirements/build.txt \
    && $pip --only-binary :all: --no-binary python-etcd,ydiff --no-build-isolation --use-pep517 -r requirements/${REQUIREMENTS}.txt \
    && python -m pip uninstall --quiet --yes setuptools pip
COPY . .
RUN python -m compileall -q cluster counters counter_project likes replication runtime sharding
ARG VERSION=dev
LABEL org.opencontainers.image.title=Tally org.opencontainers.image.version=${VERSION}
USER tally
ENTRYPOINT ["python", "-m", "cluster.container"]
