"""All tests. None mocks PostgreSQL, Redis, Celery or Patroni: one local cluster serves a whole run."""
