"""Django's settings, built from the typed configuration (`config.Config`, here as `TALLY`)."""

from __future__ import annotations

from pathlib import Path

from csp.constants import NONCE, NONE, SELF
from kombu import Exchange, Queue

import counters
from counter_project import config
from counter_project.databases import django_databases
from counter_project.logs import logging_config
from counters.intake.dispatch import SPILL_QUEUE, queue_of
from runtime.redis import CACHE_TIMEOUT_SECONDS
from sharding.databases import Router

TALLY = config.load()

SECRET_KEY = TALLY.secret_key.get_secret_value()
DEBUG = TALLY.debug
ALLOWED_HOSTS = TALLY.allowed_hosts
ROOT_URLCONF = "counter_project.urls"
ASGI_APPLICATION = "counter_project.asgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "counters.second_factor.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_otp",
    "django_otp.plugins.otp_static",
    "django_otp.plugins.otp_totp",
    "rest_framework",
    "rest_framework_api_key",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "sharding",
    "replication",
    "counters",
    "likes",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "counters.api.content_policy.ContentPolicy",
    "counters.admin.pages.PagesLimit",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "counters.admin.audit.AuditTrail",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "counters.admin.outage.AdminOutage",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(counters.__file__).parent / "templates"],  # before Django's: the look of every page of the admin
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
APPEND_SLASH = False
STATIC_URL = "/static/"
STATIC_ROOT = TALLY.static_root
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = TALLY.https
SECURE_HSTS_SECONDS = 31_536_000 if TALLY.https else 0
# Of `check --deploy`: whether a domain's other hosts are HTTPS only (W005), and whether it is in the browsers' lists
# (W021), is for its owner to say; nginx is where HTTP ends (W008): it and the probes ask the API processes by HTTP.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
# Of the admin and the documentation; the other pages allow less (`counters.api.pages.policy`).
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
OTP_TOTP_ISSUER = "Tally"  # what an authenticator calls it
LOGIN_REDIRECT_URL = "admin:index"  # after a log-in that did not start from another page

DATABASES = django_databases(TALLY)
DATABASE_ROUTERS = [f"{Router.__module__}.{Router.__qualname__}"]
DATA_UPLOAD_MAX_MEMORY_SIZE = TALLY.max_body_bytes
# One `key=` for each key, other parameters, and some more so that the view can count a few keys too many.
DATA_UPLOAD_MAX_NUMBER_FIELDS = TALLY.max_keys + 100

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": TALLY.cache_url.get_secret_value(),
        "OPTIONS": {
            "SOCKET_TIMEOUT": CACHE_TIMEOUT_SECONDS,
            "SOCKET_CONNECT_TIMEOUT": CACHE_TIMEOUT_SECONDS,
            "IGNORE_EXCEPTIONS": True,
        },
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.db"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["counters.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["counters.api.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["counters.api.media.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": [],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "counters.api.problems.handle",
    "URL_FORMAT_OVERRIDE": None,  # otherwise `?format=x` gets 404
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tally",
    "DESCRIPTION": "A counting service. A write answered with 202 is counted exactly once, whatever dies "
    "afterwards.\n\nEvery error is a problem document (RFC 9457). Beside what each call lists, any call may be "
    "answered with 405 (another method), 408 (the request came too slowly), 414 or 431 (its line or its headers are "
    "too long) or 500 (a bug, which was logged). "
    "`OPTIONS` answers 204 with `Allow`, and needs no key.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True, "tryItOutEnabled": True},
    "POSTPROCESSING_HOOKS": ["counters.api.schema.add_components"],
}

CELERY_BROKER_URL = TALLY.broker_url.get_secret_value()
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
_LOW_PRIORITY = "low-priority"  # long tasks that can wait
_EXCHANGE = Exchange("tally", type="direct")
# Each queue needs its own routing key: by default all share one, and every message would go to every queue.
CELERY_TASK_QUEUES = [
    Queue(name, _EXCHANGE, routing_key=name)
    for name in (*map(queue_of, range(TALLY.shard_count)), SPILL_QUEUE, CELERY_TASK_DEFAULT_QUEUE, _LOW_PRIORITY)
]
CELERY_TASK_DEFAULT_EXCHANGE = _EXCHANGE.name
CELERY_TASK_DEFAULT_ROUTING_KEY = CELERY_TASK_DEFAULT_QUEUE
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_TASK_DEFAULT_DELIVERY_MODE = "transient"  # messages may be lost (I4), so RabbitMQ need not write them to disk
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SEND_SENT_EVENT = False
CELERY_WORKER_CONCURRENCY = TALLY.worker_concurrency  # `celery worker -c` takes precedence
CELERY_WORKER_PREFETCH_MULTIPLIER = TALLY.worker_prefetch
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True  # if Redis is full the worker waits, as if it were down, and does not end
CELERY_BROKER_HEARTBEAT = 10  # seconds; RabbitMQ only
# max_retries is for senders: a sender learns at once that the broker is down. Meanwhile workers find its writes in the
# journal.
CELERY_BROKER_TRANSPORT_OPTIONS = {"max_retries": 0} | (
    {"socket_timeout": 5, "socket_connect_timeout": 2, "socket_keepalive": True, "health_check_interval": 10}
    if CELERY_BROKER_URL.startswith("redis")
    else {"write_timeout": 5}
)
CELERY_BEAT_SCHEDULE = {
    "relay": {
        "task": "counters.relay",
        "schedule": TALLY.relay_interval_seconds,
        "options": {"expires": TALLY.relay_interval_seconds * 2},
    },
    "heal": {
        "task": "counters.heal",
        "schedule": TALLY.heal_interval_seconds,
        "options": {"expires": TALLY.heal_interval_seconds * 2},
    },
    "maintain-partitions": {"task": "counters.maintain_partitions", "schedule": 3600.0, "options": {"expires": 3600}},
    "remove-users": {"task": "likes.remove_users", "schedule": 60.0, "options": {"expires": 60}},
    "reconcile": {
        "task": "counters.reconcile",
        "schedule": TALLY.reconcile_interval_seconds,
        "options": {"queue": _LOW_PRIORITY, "expires": TALLY.reconcile_interval_seconds},
    },
}

LOGGING_CONFIG = None
logging_config(TALLY)
